"""Which driver runs a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from processor.separation.architectures.fallback import UpstreamSeparator
from processor.separation.architectures.mdx import MdxSeparator
from processor.separation.architectures.mdxc import MdxcSeparator
from processor.separation.architectures.vr import VrSeparator, streams
from processor.separation.options import DeviceOptions
from processor.separation.separator import Separator


def architecture(model: Any) -> str:
    """Of a model that the library has loaded, by the name of its module."""
    return type(model).__module__.rpartition(".")[2]


def separator_for(model: Any, run: Callable[[Path], object], options: DeviceOptions | None = None) -> Separator:
    """One of ours, where there is one for the model; else the library's own loops, which ``run`` runs over a file.

    ``options``: how networks are run. To load a model may take as long as to compile it.
    """
    match architecture(model):
        case "mdx_separator":
            return MdxSeparator(model, options)
        case "mdxc_separator":
            return MdxcSeparator(model, options)
        case "vr_separator" if streams(model):
            return VrSeparator(model, options)
        case "demucs_separator":
            from processor.separation.architectures import (
                demucs,  # and much of the library, for those alone who need it
            )

            return demucs.load_demucs(model, run)
        case _:
            return UpstreamSeparator(model, run)
