"""What the tests do with VR models, beside ``tests.processor.separation.upstream``; see the fixture ``library``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from processor.separation.options import DeviceOptions
from tests.processor.separation.upstream import Stems, _stock, lane_ahead


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
    """What our separator gives, its network given ``batch`` windows at a time: several in the way of a GPU, one batch
    ahead. ``options``: how the network is run. ``only``: the stems that are wanted."""
    from processor.separation.architectures.vr import VrSeparator

    upstream = _stock(model_dir, scratch)
    upstream.load_model(model)
    separator = VrSeparator(upstream.model_instance, options)
    if batch > 1:
        separator.batch, separator._lane = batch, lane_ahead()
    separator = separator if only is None else separator.only(only)
    blocks: dict[str, list[NDArray[np.float32]]] = {}
    separator.separate(mixture, lambda name, block: blocks.setdefault(name, []).append(block.T), lambda _: None)
    return {name: np.concatenate(parts, axis=1) for name, parts in blocks.items()}


def driver_of(model_dir: Path, scratch: Path, model: str, option: str | None = None) -> str:
    """The kind of separator that the engine takes for a model with one of the library's options."""
    from processor.separation import registry

    upstream = _stock(model_dir, scratch)
    upstream.load_model(model)
    loaded = upstream.model_instance
    if option:
        setattr(loaded, option, True)
    try:
        return type(registry.separator_for(loaded, upstream.separate)).__name__
    finally:
        if option:
            setattr(loaded, option, False)
