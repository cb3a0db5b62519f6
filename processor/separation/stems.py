"""Names of stems: as models define them and as clients request them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pipeline.errors import ErrorCode, PermanentError


class StemMissingError(Exception):
    """The model finished without an error, but a stem is missing or invalid."""


def normalise_stem_name(name: str) -> str:
    """Return a model's name for a stem as it appears in keys, file names and messages: ``No Drums`` → ``no_drums``."""
    return re.sub("[^a-z0-9_-]+", "_", name.lower()).strip("_-") or "stem"


def require_known(requested: tuple[str, ...] | None, available: Iterable[str]) -> None:
    """Raise PermanentError (``stem_unknown``) if a requested stem is not among the model's available stems."""
    available = set(available)
    unknown = set(requested or ()) - available
    if unknown:
        raise PermanentError(
            f"the model has no stem named {', '.join(sorted(unknown))}; it has {', '.join(sorted(available))}",
            code=ErrorCode.STEM_UNKNOWN,
        )
