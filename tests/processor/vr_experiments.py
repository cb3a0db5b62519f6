"""What the tests do with VR models, beside ``tests.processor.library``; see the fixture ``library``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from processor.drivers.options import DeviceOptions
from tests.processor.library import Stems, _stock, lane_ahead


def driven(
    model_dir: Path,
    mixture: Path,
    scratch: Path,
    model: str,
    *,
    batch: int = 1,
    options: DeviceOptions | None = None,
    only: tuple[str, ...] | None = None,
) -> Stems:
    """What our driver gives, its network given ``batch`` windows at a time: several in the way of a GPU, one batch
    ahead. ``options``: how the network is run. ``only``: the stems that are wanted."""
    from processor.drivers.vr import VrDriver

    separator = _stock(model_dir, scratch)
    separator.load_model(model)
    driver = VrDriver(separator.model_instance, options)
    if batch > 1:
        driver.batch, driver._lane = batch, lane_ahead()
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
