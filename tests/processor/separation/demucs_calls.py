"""Functions that tests of Demucs models run in the process with audio-separator (fixture ``upstream_process``)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tests.processor.separation import upstream_calls
from tests.processor.separation.upstream_calls import Stems


def upstream_stems(model_dir: Path, mixture: Path, scratch: Path, *, model: str, whole: bool = False) -> Stems:
    """Return the stems of an unmodified Separator, with the engine's random shifts.

    ``whole``: without segmentation.
    """
    upstream = upstream_calls.upstream_separator(model_dir, scratch)
    upstream.load_model(model)
    upstream.model_instance.segments_enabled = not whole
    random.seed(0)
    return upstream_calls.upstream_stems(model_dir, mixture, scratch, model=model)


def streamed_stems(
    model_dir: Path, mixture: Path, scratch: Path, *, model: str, batch: int = 1, whole: bool = False
) -> tuple[str, Stems]:
    """Return the class of a model's separator, and its stems.

    ``batch``: segments in a batch. ``whole``: without segmentation, and with the files of the networks removed after
    the model was loaded.
    """
    from processor.separation import registry
    from processor.separation.architectures.demucs import DemucsSeparator

    upstream: Any = upstream_calls.upstream_separator(model_dir, scratch)
    upstream.load_model(model)
    upstream.model_instance.segments_enabled = not whole
    separator = registry.separator_for(upstream.model_instance, lambda path: upstream.separate(str(path)))
    if whole:
        for file in model_dir.glob("*.th"):
            file.unlink()
    members = separator._members if isinstance(separator, DemucsSeparator) else ()
    for member in members:
        member.batch = batch
    stems = upstream_calls.collected(separator, mixture)
    for member in members:
        member.batch = 1
    return type(separator).__name__, stems


def separator_of(model_dir: Path, scratch: Path, *, model: str) -> tuple[str, frozenset[str] | None]:
    """Return the class of a loaded model's separator, and the stems that it declares."""
    engine: Any = upstream_calls.cached_engine(model_dir, scratch)
    separator = engine.load(model)
    return type(separator).__name__, separator.stems
