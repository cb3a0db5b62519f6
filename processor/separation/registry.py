"""Selection of the separator class for a loaded model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from processor.separation.architectures.fallback import UpstreamSeparator
from processor.separation.architectures.mdx import MdxSeparator
from processor.separation.architectures.mdxc import MdxcSeparator
from processor.separation.architectures.vr import VrSeparator, WholeSongVrSeparator, supports_streaming
from processor.separation.options import DeviceOptions
from processor.separation.separator import Separator


def architecture(model: Any) -> str:
    """Return the architecture of a model that audio-separator has loaded: the name of its class's module."""
    return type(model).__module__.rpartition(".")[2]


def separator_for(model: Any, run: Callable[[Path], object], options: DeviceOptions | None = None) -> Separator:
    """Return a streaming separator if the model has one, else one that uses audio-separator's own loops.

    ``run`` runs those loops over a file. ``options``: how networks are run. With a compiler among the options, this
    call includes the compilation, which may take minutes.
    """
    match architecture(model):
        case "mdx_separator":
            return MdxSeparator(model, options)
        case "mdxc_separator":
            return MdxcSeparator(model, options)
        case "vr_separator" if supports_streaming(model):
            return VrSeparator(model, options)
        case "vr_separator":
            return WholeSongVrSeparator(model, run)
        case "demucs_separator":
            # Imported here because it imports a large part of audio-separator that only Demucs models need.
            from processor.separation.architectures import demucs

            return demucs.load_demucs(model, run)
        case _:
            return UpstreamSeparator(model, run)
