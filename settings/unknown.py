"""Finds variables that are no settings but look like one, with the setting that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator

#: Variables of docker-compose.yml besides the settings.
COMPOSE_VARIABLES = frozenset(
    {
        *("API_BIND", "S3_BIND", "KAFKA_BIND", "S3_HOST", "S3_PORT", "KAFKA_HOST", "KAFKA_PORT"),
        *("PROCESSORS", "GPU_DEVICE", "STOP_GRACE_PERIOD", "SHM_SIZE"),
        *("BUILD_DIGEST", "RUNTIME_DIGEST", "KAFKA_IMAGE_DIGEST", "S3_IMAGE_DIGEST"),
    }
)
#: Beginnings of the names that other programs read, such as boto3 and Docker Compose.
_OTHERS = ("AWS_", "BOTO_", "COMPOSE_", "DOCKER_", "CUDA_", "NVIDIA_", "PYTHON", "LC_")
#: Names that other programs read, although they are almost the name of a setting.
_NEIGHBOURS = frozenset({"DATADIR", "LOGLEVEL", "TEMPDIR", "TMP_DIR"})
#: Similarity of two names from which on one may be a spelling mistake of the other, as by difflib.
_SIMILAR, _RELATED = 0.86, 0.6


def unknown_in_environment(names: Iterable[str], settings: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield each name that is probably meant to be a setting, and the setting.

    Most variables of a process are for other programs. Only near misses count, and names that are the beginning of a
    setting, such as S3_BUCKET.
    """
    for name in _candidates(names, settings):
        nearest = next(iter(difflib.get_close_matches(name, settings, n=1, cutoff=_SIMILAR)), None) or next(
            (setting for setting in sorted(settings) if "_" in name and setting.startswith(f"{name}_")), None
        )
        if nearest and name not in _NEIGHBOURS:
            yield name, nearest


def unknown_in_file(names: Iterable[str], settings: Collection[str]) -> Iterator[tuple[str, str | None]]:
    """Yield each name in ``.env`` that nothing reads, and the nearest setting, if one is near."""
    for name in _candidates(names, settings):
        if name not in COMPOSE_VARIABLES:
            yield name, next(iter(difflib.get_close_matches(name, settings, n=1, cutoff=_RELATED)), None)


def _candidates(names: Iterable[str], settings: Collection[str]) -> Iterator[str]:
    return (name for name in sorted(map(str.upper, names)) if name not in settings and not name.startswith(_OTHERS))
