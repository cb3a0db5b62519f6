"""What the tests of precision and compilers do where ``tests.processor.separation.upstream`` is run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from structlog.testing import capture_logs

from config import Compile, Precision
from pipeline.errors import PipelineError
from processor.separation.options import DeviceOptions
from tests.processor.models.model_source import store_in


def signal_to_noise(power: float) -> float:
    """Of ones with an error of that power, dB."""
    import torch

    from processor.separation.runtime.precision import snr

    ones = torch.ones(1000)
    error = torch.where(torch.arange(1000) % 2 == 0, 1.0, -1.0) * power**0.5
    return snr(ones, ones + error)


def overflowing(precision: Precision) -> tuple[bool, list[str]]:
    """Whether a layer whose output is above what half precision has still gives what it gives in float32, and the
    events in the log of three runs."""
    import torch

    from processor.separation.runtime.precision import PrecisionContext

    layer = torch.nn.Linear(4, 4)
    with torch.inference_mode(), capture_logs() as logs:
        layer.weight.fill_(1e5)
        given = torch.ones(1, 4)
        arithmetic = PrecisionContext(precision, torch.device("cpu"))
        outputs = [arithmetic(layer, given) for _ in range(3)]
        same = all(torch.equal(output, layer(given)) for output in outputs)
    return same, [str(line["event"]) for line in logs]


def best_of(*candidates: Precision) -> Precision:
    """The choice for a network of two layers on a CPU."""
    import torch

    from processor.separation.runtime.precision import best, noise

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256))
    device = torch.device("cpu")
    return best(device, network, noise(8, 256, device=device), candidates)


def flags(precision: Precision) -> tuple[dict[str, bool], dict[str, bool], dict[str, bool]]:
    """torch's switches for CUDA after the engine has set them, while a network is run, and afterwards."""
    import torch

    from processor.separation.runtime.precision import calculating, set_baseline

    def now() -> dict[str, bool]:
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        return {
            "matmul tf32": matmul.allow_tf32,
            "cudnn tf32": cudnn.allow_tf32,
            "sums in half": matmul.allow_fp16_reduced_precision_reduction,
            "any algorithm": not cudnn.deterministic,
        }

    try:
        set_baseline(precision)
        before = now()
        with calculating(precision, torch.device("cuda")):
            inside = now()
        return before, inside, now()
    finally:
        set_baseline(Precision.FP32)


def padded_batches(count: int, size: int) -> list[tuple[int, list[list[float]]]]:
    """How so many items, 1, 2 and so on, come in batches: how many are meant, and all that the device is given."""
    import torch

    from processor.separation.runtime.batching import batches
    from processor.separation.runtime.device_transfer import DirectTransfer

    def items() -> Iterator[Any]:
        held = np.zeros(2, np.float32)  # one array for all of them, as segments are
        for number in range(count):
            held[:] = number + 1
            yield held

    class Used(DirectTransfer):
        def room(self, *shape: int) -> torch.Tensor:
            return torch.full(shape, torch.nan)

    sent = batches(items(), size, Used(torch.device("cpu")))
    return [(meant, arrived().tolist()) for meant, arrived in sent]


def compiling(kind: Compile, cache: Path, *, compiler: str | None = None) -> tuple[float, list[str]]:
    """The signal-to-noise ratio of a compiled network, dB, and the events of the log. ``cache``: for what the compiler
    keeps. ``compiler``: instead of the machine's."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    import torch
    from torch._inductor import config

    from processor.separation.runtime.compile import CudaGraph, compile_network
    from processor.separation.runtime.precision import noise, snr

    torch.manual_seed(0)
    device = torch.device("cpu")
    network = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU()).eval()
    given = noise(4, 8, device=device)
    program = compiler or config.cpp.cxx
    with torch.inference_mode(), capture_logs() as logs, config.patch({"cpp.cxx": program}):
        expected = network(given)
        if kind is Compile.GRAPHS:
            return snr(expected, CudaGraph(network, device)(given)), [str(line["event"]) for line in logs]
        compile_network(kind, [network], lambda: network(given))
        return snr(expected, network(given)), [str(line["event"]) for line in logs]


def refusal(model_dir: Path, scratch: Path, options: DeviceOptions) -> str:
    """Why an engine with these options cannot be had."""
    from processor.engine.engine import SeparationEngine

    try:
        SeparationEngine(store_in(model_dir), scratch, device=options)
    except PipelineError as error:
        return f"{error.code}: {error.message}"
    return ""


def configured(options: DeviceOptions, model: Path, *providers: str) -> list[Any]:
    """What ONNX Runtime is asked for."""
    from processor.separation.runtime import onnx

    return onnx.configured_session(providers, options, model)
