"""Who separates. A contender's functions run in a process of its own, which keeps its model warm: see ``rounds``."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from processor.separation.stems import normalise_stem_name
from processor.system.ffmpeg import put_ffmpeg_on_path

Contender = Callable[[Path, str, Path, Path], dict[str, Path]]
"""Takes the folder of models, the name of one, a song, and the folder for the stems; gives their files by
``normalise_stem_name``. Raises RuntimeError if there are none."""


def ours(model_dir: Path, model: str, song: Path, folder: Path) -> dict[str, Path]:
    """See ``separate_file``."""
    from benchmarks.engines import separate_file

    try:
        stems = separate_file(_engine(model_dir, folder), model, song, folder)
    except PipelineError as error:  # which does not survive the way to another process
        raise RuntimeError(f"{model}: {error.message}") from None
    return {stem.name: stem.path for stem in stems}


def stock(model_dir: Path, model: str, song: Path, folder: Path) -> dict[str, Path]:
    """See ``stock_separator``."""
    separator, stems = _separator(model_dir, model, folder)
    stems.clear()
    separator.separate(str(song))
    if not stems:
        raise RuntimeError(f"{model}: the library gave no stems")
    return {normalise_stem_name(name): folder / path for name, path in stems.items()}


@functools.cache
def _engine(model_dir: Path, folder: Path) -> Any:
    from benchmarks.engines import our_engine

    return our_engine(model_dir, folder)


@functools.cache
def _separator(model_dir: Path, model: str, folder: Path) -> tuple[Any, dict[str, str]]:
    """The library with the model, and where it says under which name it writes each stem."""
    os.environ.pop("AUDIO_SEPARATOR_MODEL_DIR", None)
    put_ffmpeg_on_path(folder)
    from benchmarks.engines import stock_separator

    separator = stock_separator(model_dir, folder)
    separator.download_file_if_not_exists = _require_here
    separator.load_model(model)
    return separator, _names_of_stems(separator.model_instance)


def _require_here(_url: str, path: str) -> None:
    """Stands in for the library's downloads, which would leave half a file in the folder if they were cut off."""
    if not Path(path).exists():
        raise RuntimeError(f"{path} is missing: python -m processor.models pull fetches models")


def _names_of_stems(model: Any) -> dict[str, str]:
    """Filled with the file of each stem at every song: what a file's name says of its stem would be guessed."""
    stems: dict[str, str] = {}
    write = model.final_process

    def noted(path: str, source: Any, name: str) -> Any:
        stems[name] = path
        return write(path, source, name)

    model.final_process = noted
    return stems


CONTENDERS: Mapping[str, Contender] = {"ours": ours, "stock": stock}
