"""In which precision networks calculate, and how near that is to float32.

What torch and cuDNN call float32 is not always: by default convolutions on NVIDIA's GPUs since Ampere round what they
multiply to the 10 bits of TF32 (https://docs.pytorch.org/docs/stable/notes/cuda.html), and ONNX Runtime's CUDA provider
does so everywhere (its option ``use_tf32``). Here float32 is IEEE's unless something else was asked for, or measured
to be good enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from config import Precision
from pipeline.service.logs import get_logger

log = get_logger(__name__)

#: What lower precision is held to if nobody has asked for it, dB of signal to noise against float32.
PROMISED_SNR = 60.0
#: What a probe has to have beyond that, dB: songs are not like the probe.
RESERVE = 2.0

#: Tried in this order where the choice is ours, the fastest one first.
CANDIDATES = (Precision.FP16, Precision.TF32)

_TYPES = {Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}

Run = Callable[[Tensor], Tensor]


def set_baseline(precision: Precision) -> None:
    """For all that is run outside an ``PrecisionContext``: IEEE's float32, or TF32 if the operator wants less than that."""
    _set_tf32(allowed=precision not in (Precision.AUTO, Precision.FP32))


class PrecisionContext:
    """Runs one network in one precision; where that overflows, in float32."""

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self.precision, self._device = precision, device
        self._overflowed = False

    def __call__(self, run: Run, given: Tensor, exact: Run | None = None) -> Tensor:
        """What ``run`` makes of ``given``, as float32. ``exact``: what is run where that overflows; None: the same."""
        with calculating(self.precision, self._device):
            output = run(given).float()
        if self.precision not in _TYPES or bool(torch.isfinite(output).all()):
            return output
        if not self._overflowed:
            log.warning("network_overflowed", precision=self.precision)
            self._overflowed = True
        # What is compiled would be compiled once more, for this precision.
        with calculating(Precision.FP32, self._device), torch.compiler.set_stance("force_eager"):
            return (exact or run)(given).float()


def precision_context(
    precision: Precision, device: torch.device, run: Run, probe: Callable[[], Tensor]
) -> PrecisionContext:
    """How a network is to be run on a device. ``run`` runs it. Where the choice is ours and there is one, on CUDA, it
    is made by what comes of ``probe``; elsewhere it is float32."""
    if precision is Precision.AUTO:
        precision = best(device, run, probe(), CANDIDATES) if device.type == "cuda" else Precision.FP32
    return PrecisionContext(precision, device)


@torch.inference_mode()
def best(device: torch.device, run: Run, probe: Tensor, candidates: tuple[Precision, ...]) -> Precision:
    """The first of the candidates that is near enough to float32 on the probe; float32 if none is."""
    reference = PrecisionContext(Precision.FP32, device)(run, probe).clone()
    for candidate in candidates:
        with calculating(candidate, device):
            found = snr(reference, run(probe).float())
        log.info("precision_measured", precision=candidate, snr_db=round(found, 1))
        if found >= PROMISED_SNR + RESERVE:
            return candidate
    return Precision.FP32


def snr(reference: Tensor, estimate: Tensor) -> float:
    """The power of the reference over the power of what the estimate differs by, dB; -inf if that is no number."""
    difference = (estimate - reference).square().mean(dtype=torch.float64)
    if not bool(torch.isfinite(difference)):
        return -float("inf")
    return float(10.0 * torch.log10(reference.square().mean(dtype=torch.float64) / difference))


@contextmanager
def calculating(precision: Precision, device: torch.device) -> Iterator[None]:
    """While it lasts, torch calculates in this precision on the device.

    On CUDA also: sums of half-precision products are added up in float32, and of cuDNN's algorithms the fastest one is
    looked for among those that give the same bits every time.
    """
    lower = _TYPES.get(precision)
    # Without the cache of converted weights, which inference does not fill, and which graphs must not refer to.
    cast = torch.autocast(device.type, lower, cache_enabled=False) if lower else nullcontext()
    if device.type != "cuda":
        with cast:
            yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    places: list[tuple[Any, str, bool]] = [
        (matmul, "allow_tf32", precision is not Precision.FP32),
        (cudnn, "allow_tf32", precision is not Precision.FP32),
        (matmul, "allow_fp16_reduced_precision_reduction", False),
        (matmul, "allow_bf16_reduced_precision_reduction", False),
        (cudnn, "benchmark", True),
        (cudnn, "deterministic", True),
    ]
    before = [getattr(owner, name) for owner, name, _ in places]
    try:
        for owner, name, value in places:
            setattr(owner, name, value)
        with cast:
            yield
    finally:
        for (owner, name, _), value in zip(places, before, strict=True):
            setattr(owner, name, value)


def keep_float32(module: torch.nn.Module, device: torch.device) -> None:
    """Have a part of a network, a function of one tensor, calculate in float32, and give it, whatever the rest does."""
    own = module.forward

    def forward(given: Tensor) -> Tensor:
        with torch.autocast(device.type, enabled=False):
            output: Tensor = own(given.float())
            return output

    module.forward = forward


def noise(*shape: int, device: torch.device) -> Tensor:
    """A probe: white noise, the same one every time, of which no sample is far above 1."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).mul_(0.25).to(device)


def _set_tf32(*, allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
