"""What the tests do with Demucs models in the process that has audio-separator; see the fixture ``library``."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.processor import library
from tests.processor.library import Stems


def stock_stems(model_dir: Path, mixture: Path, scratch: Path, *, model: str, whole: bool = False) -> Stems:
    """What an unmodified Separator gives, with the shifts that the engine's songs have. ``whole``: not in segments."""
    separator = library._stock(model_dir, scratch)
    separator.load_model(model)
    separator.model_instance.segments_enabled = not whole
    random.seed(0)
    return library.stock_stems(model_dir, mixture, scratch, model=model)


def driven_stems(
    model_dir: Path, mixture: Path, scratch: Path, *, model: str, batch: int = 1, whole: bool = False
) -> tuple[str, Stems]:
    """What kind of driver a model has, and what it gives.

    ``batch``: segments that a network is given at a time. ``whole``: the song is not cut into any; the files of the
    networks are removed before it comes.
    """
    from processor.drivers import choice
    from processor.drivers.demucs import DemucsDriver

    separator: Any = library._stock(model_dir, scratch)
    separator.load_model(model)
    separator.model_instance.segments_enabled = not whole
    driver = choice.driver_of(separator.model_instance, lambda path: separator.separate(str(path)))
    if whole:
        for file in model_dir.glob("*.th"):
            file.unlink()
    members = driver._members if isinstance(driver, DemucsDriver) else ()
    for member in members:
        member.batch = batch
    blocks: dict[str, list[NDArray[np.float32]]] = {}
    driver.separate(mixture, lambda name, block: blocks.setdefault(name, []).append(block.T), lambda _: None)
    for member in members:
        member.batch = 1
    return type(driver).__name__, {name: np.concatenate(parts, axis=1) for name, parts in blocks.items()}


def promised(model_dir: Path, scratch: Path, *, model: str) -> tuple[str, frozenset[str] | None]:
    """What kind of driver a model has once it is loaded, and the stems that it says it will give."""
    engine: Any = library._engine(model_dir, scratch)
    driver = engine.load(model)
    return type(driver).__name__, driver.stems
