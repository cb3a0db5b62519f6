"""What the tests do with Demucs models in the process that has audio-upstream; see the fixture ``library``."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.processor.separation import upstream
from tests.processor.separation.upstream import Stems


def stock_stems(model_dir: Path, mixture: Path, scratch: Path, *, model: str, whole: bool = False) -> Stems:
    """What an unmodified Separator gives, with the shifts that the engine's songs have. ``whole``: not in segments."""
    stock = upstream._stock(model_dir, scratch)
    stock.load_model(model)
    stock.model_instance.segments_enabled = not whole
    random.seed(0)
    return upstream.stock_stems(model_dir, mixture, scratch, model=model)


def driven_stems(
    model_dir: Path, mixture: Path, scratch: Path, *, model: str, batch: int = 1, whole: bool = False
) -> tuple[str, Stems]:
    """What kind of separator a model has, and what it gives.

    ``batch``: segments that a network is given at a time. ``whole``: the song is not cut into any; the files of the
    networks are removed before it comes.
    """
    from processor.separation import registry
    from processor.separation.architectures.demucs import DemucsSeparator

    stock: Any = upstream._stock(model_dir, scratch)
    stock.load_model(model)
    stock.model_instance.segments_enabled = not whole
    separator = registry.separator_for(stock.model_instance, lambda path: stock.separate(str(path)))
    if whole:
        for file in model_dir.glob("*.th"):
            file.unlink()
    members = separator._members if isinstance(separator, DemucsSeparator) else ()
    for member in members:
        member.batch = batch
    blocks: dict[str, list[NDArray[np.float32]]] = {}
    separator.separate(mixture, lambda name, block: blocks.setdefault(name, []).append(block.T), lambda _: None)
    for member in members:
        member.batch = 1
    return type(separator).__name__, {name: np.concatenate(parts, axis=1) for name, parts in blocks.items()}


def promised(model_dir: Path, scratch: Path, *, model: str) -> tuple[str, frozenset[str] | None]:
    """What kind of separator a model has once it is loaded, and the stems that it says it will give."""
    engine: Any = upstream._engine(model_dir, scratch)
    separator = engine.load(model)
    return type(separator).__name__, separator.stems
