"""The network of an MDX model, which audio-separator has loaded: spectra in, spectra out, on the device it is on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from config import Compile, Precision
from pipeline.service.logs import get_logger
from processor.separation.options import DeviceOptions
from processor.separation.runtime.compile import CudaGraph, compile_network
from processor.separation.runtime.precision import PrecisionContext, Run, precision_context
from processor.system.oom import is_out_of_memory

log = get_logger(__name__)

_DEVICES = {
    "CPUExecutionProvider": "cpu",
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "cuda",
    "CoreMLExecutionProvider": "mps",
}

Probe = Callable[[int], Tensor]
"""Gives what a network might be given: a batch of so many segments, on the device."""


class Network(Protocol):
    """A loaded network."""

    @property
    def device(self) -> str:
        """The kind of what it runs on."""

    @property
    def batch(self) -> int:
        """How many segments it is best given at a time."""

    def __call__(self, spectra: Tensor) -> Tensor:
        """Both ``(batch, channels * 2, bins, times)``, float32, on the same device."""


def network_of(model: Any, options: DeviceOptions, probe: Probe) -> Network:
    """The network of a loaded ``MDXSeparator``.

    By ONNX Runtime; by torch where the precision may be one that ONNX Runtime has only for networks that were made in
    it, where it is to be compiled, and where segments have another length than the network was made for.
    """
    if model.uses_pytorch_inference:
        return TorchNetwork(model.model_run, model.torch_device, options, probe, batch=1)
    session = inspect.getclosurevars(model.model_run).nonlocals["ort_inference_session"]
    batch = 1 if isinstance(session.get_inputs()[0].shape[0], int) else batch_for(transform_device(model), options)
    if not options.tensorrt and _wants_torch(options, model.torch_device):
        module = _converted(model)
        if module is not None:
            return TorchNetwork(module, model.torch_device, options, probe, batch=batch)
    # onnxruntime may know the GPU while the installed torch does not, and the other way round.
    device = transform_device(model)
    if _device(session) != device.type:
        return OnnxNetwork(session)
    network = BoundOnnxNetwork(session, batch)
    warm_up(device, batch, lambda size: network(probe(size)))
    return network


def transform_device(model: Any) -> torch.device:
    """Where the model's transforms are made. Not all other devices know complex numbers: the CPU is good for those."""
    return torch.device("cuda" if model.torch_device.type == "cuda" else "cpu")


def batch_for(device: torch.device, options: DeviceOptions) -> int:
    """How many segments a device is given at a time. A CPU gets one: its caches hold no more."""
    return options.batch if device.type == "cuda" else 1


def warm_up(device: torch.device, batch: int, run: Callable[[int], object]) -> None:
    """On CUDA, have what is looked for and allocated at the first batch of a size done before the first song. If there
    is not enough memory for it, that is the first song's to find out, which can be given less."""
    if device.type != "cuda":
        return
    try:
        run(batch)
    except Exception as error:  # the boundary: of all that the libraries raise, these alone
        if not is_out_of_memory(error):
            raise
        log.warning("memory_ran_out", steps=["warm_up"], error=str(error)[:200])


def _wants_torch(options: DeviceOptions, device: torch.device) -> bool:
    lower = options.precision in (Precision.FP16, Precision.BF16)
    ours = options.precision is Precision.AUTO and device.type == "cuda"
    return lower or ours or options.compile is not Compile.NONE


def _converted(model: Any) -> torch.nn.Module | None:
    """The network as a torch module on its device; None if it has what the converter does not know."""
    import onnx2torch

    try:
        module: torch.nn.Module = onnx2torch.convert(model.model_path).to(model.torch_device).eval()
    except Exception as error:  # the converter's errors have no type in common
        if is_out_of_memory(error):
            raise
        log.warning("network_not_converted", why=f"{type(error).__name__}: {str(error)[:300]}")
        return None
    return module


class TorchNetwork:
    """A torch module."""

    def __init__(
        self, module: torch.nn.Module, device: torch.device, options: DeviceOptions, probe: Probe, *, batch: int
    ) -> None:
        """``batch``: 1 where what it was converted from may have been made for no more."""
        self._device, self.batch = device, batch
        self._module: Run = module
        self._run: Run = module
        self._arithmetic: PrecisionContext = precision_context(
            options.precision, device, module, lambda: self._probe(probe, 1)
        )
        compile_network(options.compile, [module], lambda: self(self._probe(probe, batch)))
        if options.compile is Compile.GRAPHS:
            self._run = CudaGraph(module, device)
        warm_up(device, batch, lambda size: self(self._probe(probe, size)))

    @property
    def device(self) -> str:
        return self._device.type

    @torch.inference_mode()
    def __call__(self, spectra: Tensor) -> Tensor:
        return self._arithmetic(self._run, spectra.to(self._device), exact=self._module).to(spectra.device)

    def _probe(self, probe: Probe, size: int) -> Tensor:
        return probe(size).to(self._device)


class OnnxNetwork:
    """A session of ONNX Runtime whose device is not that of the transforms: fed from main memory."""

    batch = 1

    def __init__(self, session: Any) -> None:
        self._session = session
        #: What onnxruntime really runs it on: it falls back to the CPU with a mere warning.
        self.device = _device(session)

    def __call__(self, spectra: Tensor) -> Tensor:
        output: np.ndarray[Any, Any] = self._session.run(None, {"input": spectra.cpu().numpy()})[0]
        return torch.from_numpy(output).to(spectra.device)


class BoundOnnxNetwork:
    """A session of ONNX Runtime that reads and writes tensors where they are. What it returns is good until the next
    call."""

    def __init__(self, session: Any, batch: int) -> None:
        self._session, self.batch = session, batch
        self._output = session.get_outputs()[0].name
        self.device = _device(session)
        self._held: Tensor | None = None

    def __call__(self, spectra: Tensor) -> Tensor:
        spectra = spectra.contiguous()
        output = self._output_like(spectra)
        binding = self._session.io_binding()
        for bind, name, tensor in ((binding.bind_input, "input", spectra), (binding.bind_output, self._output, output)):
            bind(name, self.device, tensor.device.index or 0, np.float32, tuple(tensor.shape), tensor.data_ptr())
        if self.device == "cuda":
            # The session has a stream of its own, and waits for that one before it returns.
            torch.cuda.current_stream().synchronize()
        self._session.run_with_iobinding(binding)
        return output

    def _output_like(self, spectra: Tensor) -> Tensor:
        """Uninitialised: the one before, unless that was for batches of another size."""
        if self._held is None or self._held.shape != spectra.shape:
            self._held = None  # or both would have to fit
            self._held = torch.empty_like(spectra)
        return self._held


def _device(session: Any) -> str:
    provider: str = session.get_providers()[0]
    return _DEVICES.get(provider, provider)
