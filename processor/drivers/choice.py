"""Which driver runs a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from processor.drivers import Driver
from processor.drivers.mdx import MdxDriver
from processor.drivers.mdxc import MdxcDriver
from processor.drivers.options import DeviceOptions
from processor.drivers.stock import StockDriver
from processor.drivers.vr import VrDriver, streams


def architecture(model: Any) -> str:
    """Of a model that the library has loaded, by the name of its module."""
    return type(model).__module__.rpartition(".")[2]


def driver_of(model: Any, run: Callable[[Path], object], options: DeviceOptions | None = None) -> Driver:
    """One of ours, where there is one for the model; else the library's own loops, which ``run`` runs over a file.

    ``options``: how networks are run. To load a model may take as long as to compile it.
    """
    match architecture(model):
        case "mdx_separator":
            return MdxDriver(model, options)
        case "mdxc_separator":
            return MdxcDriver(model, options)
        case "vr_separator" if streams(model):
            return VrDriver(model, options)
        case "demucs_separator":
            from processor.drivers import demucs  # and much of the library, for those alone who need it

            return demucs.driver_of(model, run)
        case _:
            return StockDriver(model, run)
