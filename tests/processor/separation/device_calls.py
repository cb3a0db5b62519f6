"""Functions that tests of precision and compilers run in the process with audio-separator."""

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
    """Return the measured ratio for a signal of ones with an error of that power, dB."""
    import torch

    from processor.separation.runtime.precision import snr_db

    ones = torch.ones(1000)
    error = torch.where(torch.arange(1000) % 2 == 0, 1.0, -1.0) * power**0.5
    return snr_db(ones, ones + error)


def overflowing(precision: Precision) -> tuple[bool, list[str]]:
    """Run a layer three times whose output exceeds the range of half precision.

    Returns whether its results are those of float32, and the log events.
    """
    import torch

    from processor.separation.runtime.precision import PrecisionContext

    layer = torch.nn.Linear(4, 4)
    with torch.inference_mode(), capture_logs() as logs:
        layer.weight.fill_(1e5)
        given = torch.ones(1, 4)
        context = PrecisionContext(precision, torch.device("cpu"))
        outputs = [context(layer, given) for _ in range(3)]
        same = all(torch.equal(output, layer(given)) for output in outputs)
    return same, [str(line["event"]) for line in logs]


def chosen_precision(*candidates: Precision) -> Precision:
    """Return the choice for a network of two layers on a CPU."""
    import torch

    from processor.separation.runtime.precision import choose_precision, probe_noise

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256))
    device = torch.device("cpu")
    return choose_precision(device, network, probe_noise(8, 256, device=device), candidates)


def flags(precision: Precision) -> tuple[dict[str, bool], dict[str, bool], dict[str, bool]]:
    """Return torch's switches for CUDA after the engine has set them, while a network is run, and afterwards."""
    import torch

    from processor.separation.runtime.precision import precision_scope, set_baseline

    def current() -> dict[str, bool]:
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        return {
            "matmul tf32": matmul.allow_tf32,
            "cudnn tf32": cudnn.allow_tf32,
            "sums in half": matmul.allow_fp16_reduced_precision_reduction,
            "any algorithm": not cudnn.deterministic,
        }

    try:
        set_baseline(precision)
        before = current()
        with precision_scope(precision, torch.device("cuda")):
            inside = current()
        return before, inside, current()
    finally:
        set_baseline(Precision.FP32)


def uploaded_batches(count: int, size: int) -> list[tuple[int, list[list[float]]]]:
    """Return the batches of the items 1, 2, … ``count``: the number of items in each, and the uploaded values."""
    import torch

    from processor.separation.runtime.batching import upload_batches
    from processor.separation.runtime.device_transfer import DeviceTransfer

    def items() -> Iterator[Any]:
        buffer = np.zeros(2, np.float32)  # one array for all items, as for segments
        for number in range(count):
            buffer[:] = number + 1
            yield buffer

    class DirtyTransfer(DeviceTransfer):
        def host_buffer(self, *shape: int) -> torch.Tensor:
            return torch.full(shape, torch.nan)

    batches = upload_batches(items(), size, DirtyTransfer(torch.device("cpu")))
    return [(number, on_device().tolist()) for number, on_device in batches]


def compiling(kind: Compile, cache: Path, *, compiler: str | None = None) -> tuple[float, list[str]]:
    """Return the signal-to-noise ratio of a compiled network, dB, and the log events.

    ``cache``: folder of the compiler's cache. ``compiler``: replaces the default C++ compiler.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    import torch
    from torch._inductor import config

    from processor.separation.runtime.compile import CudaGraph, compile_network
    from processor.separation.runtime.precision import probe_noise, snr_db

    torch.manual_seed(0)
    device = torch.device("cpu")
    network = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU()).eval()
    given = probe_noise(4, 8, device=device)
    program = compiler or config.cpp.cxx
    with torch.inference_mode(), capture_logs() as logs, config.patch({"cpp.cxx": program}):
        expected = network(given)
        if kind is Compile.GRAPHS:
            return snr_db(expected, CudaGraph(network, device)(given)), [str(line["event"]) for line in logs]
        compile_network(kind, [network], lambda: network(given))
        return snr_db(expected, network(given)), [str(line["event"]) for line in logs]


def engine_error(model_dir: Path, scratch: Path, options: DeviceOptions) -> str:
    """Return the error of creating an engine with these options; empty if there is none."""
    from processor.engine.engine import SeparationEngine

    try:
        SeparationEngine(store_in(model_dir), scratch, device=options)
    except PipelineError as error:
        return f"{error.code}: {error.message}"
    return ""


def configured_providers(options: DeviceOptions, model: Path, *providers: str) -> list[Any]:
    """Return the providers that an ONNX Runtime session is created with."""
    from processor.separation.runtime import onnx

    return onnx.configured_providers(providers, options, model)
