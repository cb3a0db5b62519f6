"""The contenders. Each runs in its own process, which keeps its model warm: see ``rounds``."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.stem_name import normalise_stem_name
from processor.system.ffmpeg import put_ffmpeg_on_path

Contender = Callable[[Path, str, Path, Path], dict[str, Path]]
"""Receives the folder of models, the name of a model, a song, and the folder for the stems. Returns the stems' files by
their normalised names. Raises RuntimeError if there are none."""


def engine_stems(model_dir: Path, model: str, song: Path, folder: Path) -> dict[str, Path]:
    """Separate with this engine, see ``separate_file``."""
    from benchmarks.engines import separate_file

    try:
        stems = separate_file(_engine(model_dir, folder), model, song, folder)
    except PipelineError as error:  # which cannot be pickled
        raise RuntimeError(f"{model}: {error.message}") from None
    return {stem.name: stem.path for stem in stems}


def upstream_stems(model_dir: Path, model: str, song: Path, folder: Path) -> dict[str, Path]:
    """Separate with audio-separator, see ``upstream_separator``."""
    separator, stems = _separator(model_dir, model, folder)
    stems.clear()
    separator.separate(str(song))
    if not stems:
        raise RuntimeError(f"{model}: audio-separator wrote no stems")
    return {normalise_stem_name(name): folder / path for name, path in stems.items()}


@functools.cache
def _engine(model_dir: Path, folder: Path) -> Any:
    from benchmarks.engines import offline_engine

    return offline_engine(model_dir, folder)


@functools.cache
def _separator(model_dir: Path, model: str, folder: Path) -> tuple[Any, dict[str, str]]:
    """Return audio-separator with the model, and a dictionary that receives the file of each stem."""
    os.environ.pop("AUDIO_SEPARATOR_MODEL_DIR", None)
    put_ffmpeg_on_path(folder)
    from benchmarks.engines import upstream_separator

    separator = upstream_separator(model_dir, folder)
    separator.download_file_if_not_exists = _require_present
    separator.load_model(model)
    return separator, _record_files(separator.model_instance)


def _require_present(_url: str, path: str) -> None:
    """Replaces audio-separator's downloads, which leave a partial file behind when they are interrupted."""
    if not Path(path).exists():
        raise RuntimeError(f"{path} is missing: python -m processor.models pull fetches models")


def _record_files(model: Any) -> dict[str, str]:
    """Return a dictionary that receives the file of each stem of every song, instead of guessing stems from names."""
    stems: dict[str, str] = {}
    write = model.final_process

    def recorded(path: str, source: Any, name: str) -> Any:
        stems[name] = path
        return write(path, source, name)

    model.final_process = recorded
    return stems


CONTENDERS: Mapping[str, Contender] = {"engine": engine_stems, "upstream": upstream_stems}
