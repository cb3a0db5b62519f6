"""Functions that tests of VR models run in the process with audio-separator (fixture ``upstream_process``)."""

from __future__ import annotations

from pathlib import Path

from processor.separation.options import DeviceOptions
from tests.processor.separation.upstream_calls import Stems, collected, pipelined_transfer, upstream_separator


def streamed_stems(
    model_dir: Path,
    mixture: Path,
    scratch: Path,
    model: str,
    *,
    batch: int = 1,
    options: DeviceOptions | None = None,
    only: tuple[str, ...] | None = None,
) -> Stems:
    """Return the stems of a ``VrSeparator``.

    ``batch``: windows in a batch; several are transferred as to a GPU, pipelined. ``options``: how the network is
    run. ``only``: the wanted stems.
    """
    from processor.separation.architectures.vr import VrSeparator

    upstream = upstream_separator(model_dir, scratch)
    upstream.load_model(model)
    separator = VrSeparator(upstream.model_instance, options)
    if batch > 1:
        separator.batch, separator._transfer = batch, pipelined_transfer()
    return collected(separator if only is None else separator.only(only), mixture)


def separator_class(model_dir: Path, scratch: Path, model: str, option: str | None = None) -> str:
    """Return the class of the separator for a model with one of audio-separator's options."""
    from processor.separation import registry

    upstream = upstream_separator(model_dir, scratch)
    upstream.load_model(model)
    loaded = upstream.model_instance
    if option:
        setattr(loaded, option, True)
    try:
        return type(registry.separator_for(loaded, upstream.separate)).__name__
    finally:
        if option:
            setattr(loaded, option, False)
