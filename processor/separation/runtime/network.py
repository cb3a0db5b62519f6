"""The network of an MDX model that audio-separator has loaded: spectra in, spectra out, on its device."""

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
from processor.separation.runtime.precision import Run, precision_context
from processor.system.oom import is_out_of_memory

log = get_logger(__name__)

_DEVICES = {
    "CPUExecutionProvider": "cpu",
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "cuda",
    "CoreMLExecutionProvider": "mps",
}

Probe = Callable[[int], Tensor]
"""Returns an example of a network's input: a batch of so many segments, on the device."""


class Network(Protocol):
    """A loaded network."""

    device: str
    """The kind of device that it runs on."""
    batch: int
    """The number of segments in a batch."""

    def __call__(self, spectra: Tensor) -> Tensor:
        """Return the output, ``(batch, channels * 2, bins, times)``, float32, of the input's shape and device."""


def load_network(model: Any, options: DeviceOptions, probe: Probe) -> Network:
    """Return the network of a loaded ``MDXSeparator``.

    ONNX Runtime runs it, except where torch must: for a precision that ONNX Runtime offers only to networks stored in
    it, for compilers, and for segments of another length than the network was made for.
    """
    if model.uses_pytorch_inference:
        return TorchNetwork(model.model_run, model.torch_device, options, probe, batch=1)
    session = inspect.getclosurevars(model.model_run).nonlocals["ort_inference_session"]
    device = transform_device(model)
    batch = 1 if isinstance(session.get_inputs()[0].shape[0], int) else batch_for(device, options)
    half = options.precision in (Precision.FP16, Precision.BF16)
    automatic = options.precision is Precision.AUTO and model.torch_device.type == "cuda"
    if not options.tensorrt and (half or automatic or options.compile is not Compile.NONE):
        module = _convert_to_torch(model)
        if module is not None:
            return TorchNetwork(module, model.torch_device, options, probe, batch=batch)
    # onnxruntime may support the GPU while the installed torch does not, and vice versa.
    if _session_device(session) != device.type:
        return OnnxNetwork(session)
    network = BoundOnnxNetwork(session, batch)
    warm_up(device, batch, lambda size: network(probe(size)))
    return network


def transform_device(model: Any) -> torch.device:
    """Return the device of the model's transforms. Other devices than CUDA may lack complex numbers: the CPU then."""
    return torch.device("cuda" if model.torch_device.type == "cuda" else "cpu")


def batch_for(device: torch.device, options: DeviceOptions) -> int:
    """Return the number of segments in a batch. A CPU takes one: its caches hold no more."""
    return options.batch if device.type == "cuda" else 1


def warm_up(device: torch.device, batch: int, run: Callable[[int], object]) -> None:
    """On CUDA, run one batch, so that algorithms are chosen and memory is allocated before the first song.

    Ignores a lack of memory: the first song will meet it again, and can fall back to smaller batches.
    """
    if device.type != "cuda":
        return
    try:
        run(batch)
    except Exception as error:  # the libraries raise many types; only out-of-memory errors are handled
        if not is_out_of_memory(error):
            raise
        log.warning("out_of_memory", steps=["warm_up"], error=str(error)[:200])


def _convert_to_torch(model: Any) -> torch.nn.Module | None:
    """Return the network as a torch module on its device; None if the converter does not support it."""
    import onnx2torch

    try:
        module: torch.nn.Module = onnx2torch.convert(model.model_path).to(model.torch_device).eval()
    except Exception as error:  # the converter's errors have no common type
        if is_out_of_memory(error):
            raise
        log.warning("onnx_conversion_failed", reason=f"{type(error).__name__}: {str(error)[:300]}")
        return None
    return module


class TorchNetwork:
    """Runs a torch module."""

    def __init__(
        self, module: torch.nn.Module, device: torch.device, options: DeviceOptions, probe: Probe, *, batch: int
    ) -> None:
        """``batch``: 1 if the network that the module was converted from may have a fixed batch size of 1."""
        self._device, self.batch = device, batch
        self.device = device.type
        self._module: Run = module
        self._run: Run = module
        self._context = precision_context(options.precision, device, module, lambda: probe(1).to(device))
        compile_network(options.compile, [module], lambda: self(probe(batch).to(device)))
        if options.compile is Compile.GRAPHS:
            self._run = CudaGraph(module, device)
        warm_up(device, batch, lambda size: self(probe(size).to(device)))

    @torch.inference_mode()
    def __call__(self, spectra: Tensor) -> Tensor:
        return self._context(self._run, spectra.to(self._device), exact=self._module).to(spectra.device)


class OnnxNetwork:
    """Runs an ONNX Runtime session whose device is not that of the transforms: data passes through main memory."""

    batch = 1

    def __init__(self, session: Any) -> None:
        self._session = session
        #: The device that is really used: onnxruntime falls back to the CPU with only a warning.
        self.device = _session_device(session)

    def __call__(self, spectra: Tensor) -> Tensor:
        output: np.ndarray[Any, Any] = self._session.run(None, {"input": spectra.cpu().numpy()})[0]
        return torch.from_numpy(output).to(spectra.device)


class BoundOnnxNetwork:
    """Runs an ONNX Runtime session that reads and writes tensors in place. Output is valid until the next call."""

    def __init__(self, session: Any, batch: int) -> None:
        self._session, self.batch = session, batch
        self._output_name = session.get_outputs()[0].name
        self.device = _session_device(session)
        self._output: Tensor | None = None

    def __call__(self, spectra: Tensor) -> Tensor:
        spectra = spectra.contiguous()
        if self._output is None or self._output.shape != spectra.shape:
            self._output = None  # freed first: both outputs may not fit into memory
            self._output = torch.empty_like(spectra)
        output = self._output
        binding = self._session.io_binding()
        for bind, name, tensor in (
            (binding.bind_input, "input", spectra),
            (binding.bind_output, self._output_name, output),
        ):
            bind(name, self.device, tensor.device.index or 0, np.float32, tuple(tensor.shape), tensor.data_ptr())
        if self.device == "cuda":
            # The session has its own stream. It synchronises that stream before it returns, but not torch's.
            torch.cuda.current_stream().synchronize()
        self._session.run_with_iobinding(binding)
        return output


def _session_device(session: Any) -> str:
    provider: str = session.get_providers()[0]
    return _DEVICES.get(provider, provider)
