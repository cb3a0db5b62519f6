"""The precision of networks, and its accuracy compared to float32.

What torch and cuDNN call float32 is not always IEEE float32: by default, convolutions on NVIDIA GPUs since Ampere round
their factors to the 10 bits of TF32 (https://docs.pytorch.org/docs/stable/notes/cuda.html), and ONNX Runtime's CUDA
provider does so everywhere (its option ``use_tf32``). Here float32 is IEEE float32, unless another precision was
requested or was measured to be accurate enough.
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

#: Minimum signal-to-noise ratio against float32 of a precision that is chosen automatically, dB.
TARGET_SNR_DB = 60.0
#: Added to the target when it is measured with a probe, dB: songs differ from the probe.
SNR_MARGIN_DB = 2.0

#: Candidates of the automatic choice, the fastest one first.
CANDIDATES = (Precision.FP16, Precision.TF32)

_DTYPES = {Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}

Run = Callable[[Tensor], Tensor]


def set_baseline(precision: Precision) -> None:
    """Set the precision outside of ``PrecisionContext``: IEEE float32, or TF32 if the settings ask for less."""
    allowed = precision not in (Precision.AUTO, Precision.FP32)
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


class PrecisionContext:
    """Runs one network in one precision, and in float32 where that precision overflows."""

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self.precision, self._device = precision, device
        self._overflowed = False

    def __call__(self, run: Run, inputs: Tensor, exact: Run | None = None) -> Tensor:
        """Return ``run(inputs)`` as float32. ``exact`` is run in float32 after an overflow; None: ``run`` itself."""
        with precision_scope(self.precision, self._device):
            output = run(inputs).float()
        if self.precision not in _DTYPES or bool(torch.isfinite(output).all()):
            return output
        if not self._overflowed:
            log.warning("network_overflowed", precision=self.precision)
            self._overflowed = True
        # Eager mode, because a compiled network would be recompiled for float32.
        with precision_scope(Precision.FP32, self._device), torch.compiler.set_stance("force_eager"):
            return (exact or run)(inputs).float()


def precision_context(
    precision: Precision, device: torch.device, run: Run, probe: Callable[[], Tensor]
) -> PrecisionContext:
    """Return the context in which the network ``run`` runs on the device.

    ``auto`` is resolved to float32, except on CUDA, where the precision is chosen by a measurement with ``probe``.
    """
    if precision is Precision.AUTO:
        cuda = device.type == "cuda"
        precision = choose_precision(device, run, probe(), CANDIDATES) if cuda else Precision.FP32
    return PrecisionContext(precision, device)


@torch.inference_mode()
def choose_precision(device: torch.device, run: Run, probe: Tensor, candidates: tuple[Precision, ...]) -> Precision:
    """Return the first candidate that is accurate enough on the probe; float32 if none is."""
    reference = PrecisionContext(Precision.FP32, device)(run, probe).clone()
    for candidate in candidates:
        with precision_scope(candidate, device):
            measured = snr_db(reference, run(probe).float())
        log.info("precision_measured", precision=candidate, snr_db=round(measured, 1))
        if measured >= TARGET_SNR_DB + SNR_MARGIN_DB:
            return candidate
    return Precision.FP32


def snr_db(reference: Tensor, estimate: Tensor) -> float:
    """Return the ratio of the reference's power to the power of the difference, dB; -inf if it is not finite."""
    difference = (estimate - reference).square().mean(dtype=torch.float64)
    if not bool(torch.isfinite(difference)):
        return -float("inf")
    return float(10.0 * torch.log10(reference.square().mean(dtype=torch.float64) / difference))


@contextmanager
def precision_scope(precision: Precision, device: torch.device) -> Iterator[None]:
    """Run the body with torch set to this precision on the device.

    On CUDA, sums of half-precision products are accumulated in float32, and cuDNN searches for its fastest algorithm
    among the deterministic ones.
    """
    lower = _DTYPES.get(precision)
    # Without the cache of converted weights, which inference does not fill, and which graphs must not refer to.
    cast = torch.autocast(device.type, lower, cache_enabled=False) if lower else nullcontext()
    if device.type != "cuda":
        with cast:
            yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    switches: list[tuple[Any, str, bool]] = [
        (matmul, "allow_tf32", precision is not Precision.FP32),
        (cudnn, "allow_tf32", precision is not Precision.FP32),
        (matmul, "allow_fp16_reduced_precision_reduction", False),
        (matmul, "allow_bf16_reduced_precision_reduction", False),
        (cudnn, "benchmark", True),
        (cudnn, "deterministic", True),
    ]
    before = [getattr(owner, name) for owner, name, _ in switches]
    try:
        for owner, name, value in switches:
            setattr(owner, name, value)
        with cast:
            yield
    finally:
        for (owner, name, _), value in zip(switches, before, strict=True):
            setattr(owner, name, value)


def force_float32(module: torch.nn.Module, device: torch.device) -> None:
    """Make a part of a network, a function of one tensor, compute and return float32 in any precision."""
    own_forward = module.forward

    def forward(inputs: Tensor) -> Tensor:
        with torch.autocast(device.type, enabled=False):
            output: Tensor = own_forward(inputs.float())
            return output

    module.forward = forward


def probe_noise(*shape: int, device: torch.device) -> Tensor:
    """Return a probe: white noise with a fixed seed and a standard deviation of 0.25."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).mul_(0.25).to(device)
