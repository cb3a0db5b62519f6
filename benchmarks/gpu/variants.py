"""The contenders: audio-separator with its defaults, and this engine with each of its options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from benchmarks.gpu.networks import BenchmarkNetwork
from config import Compile, Precision

UPSTREAM: Final = "upstream"


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run a network."""

    name: str
    title: str
    precision: Precision = Precision.FP32
    compile: Compile = Compile.NONE


#: The reference for the stems of the others.
REFERENCE: Final = Variant("fp32", "this engine, fp32", Precision.FP32)
DEFAULT: Final = Variant("auto", "**this engine, defaults**", Precision.AUTO)

_TF32: Final = Variant("tf32", "this engine, tf32", Precision.TF32)
_LOWER: Final = (
    Variant("fp16", "this engine, fp16", Precision.FP16),
    Variant("bf16", "this engine, bf16", Precision.BF16),
)
_INDUCTOR: Final = Variant("inductor", "this engine, fp16, inductor", Precision.FP16, Compile.INDUCTOR)
_GRAPHS: Final = Variant("graphs", "this engine, fp16, graphs", Precision.FP16, Compile.GRAPHS)


def variants(network: BenchmarkNetwork) -> tuple[Variant, ...]:
    """Return the variants that apply to the network, the reference first."""
    chosen = [REFERENCE, Variant(UPSTREAM, "audio-separator, in process, warm"), DEFAULT, _TF32]
    chosen += _LOWER if network.lower else ()
    chosen += [_INDUCTOR] if network.compiles else []
    chosen += [_GRAPHS] if network.graphs else []
    return tuple(chosen)
