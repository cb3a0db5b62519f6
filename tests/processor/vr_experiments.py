"""What the tests do with VR models, beside ``tests.processor.library``; see the fixture ``library``."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from processor.decode import Mixture
from tests.processor.library import Stems, _stock


def use_threads(count: int) -> int:
    """For torch, from now on; how many it had before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    return before


def driven(
    model_dir: Path, mixture: Path, scratch: Path, model: str, *, batch: int = 1, only: tuple[str, ...] | None = None
) -> Stems:
    """What our driver gives, its network given ``batch`` windows at a time. ``only``: the stems that are wanted."""
    from processor.drivers.vr import VrDriver

    separator = _stock(model_dir, scratch)
    separator.load_model(model)
    driver = VrDriver(separator.model_instance)
    driver.batch = batch
    driver = driver if only is None else driver.only(only)
    blocks: dict[str, list[NDArray[np.float32]]] = {}
    driver.separate(mixture, lambda name, block: blocks.setdefault(name, []).append(block.T), lambda _: None)
    return {name: np.concatenate(parts, axis=1) for name, parts in blocks.items()}


def driver_of(model_dir: Path, scratch: Path, model: str, option: str | None = None) -> str:
    """The kind of driver that the engine takes for a model with one of the library's options."""
    from processor.drivers import choice

    separator = _stock(model_dir, scratch)
    separator.load_model(model)
    loaded = separator.model_instance
    if option:
        setattr(loaded, option, True)
    try:
        return type(choice.driver_of(loaded, separator.separate)).__name__
    finally:
        if option:
            setattr(loaded, option, False)


def resident_after(model_dir: Path, scratch: Path, model: str, mixtures: list[Mixture]) -> list[int]:
    """The largest resident set of this process after each of the songs, bytes."""
    from processor.drivers.vr import VrDriver

    use_threads(1)
    separator = _stock(model_dir, scratch)
    separator.load_model(model)
    driver = VrDriver(separator.model_instance)
    peaks = []
    for mixture in mixtures:
        driver.separate(mixture.path, lambda _name, _block: None, lambda _: None)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    return peaks
