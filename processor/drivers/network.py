"""The network of an MDX model, which audio-separator has loaded: spectra in, spectra out, on the device it is on."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

#: Segments that a GPU is given at a time. A CPU gets one: its caches hold no more.
GPU_BATCH = 4

_DEVICES = {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda", "CoreMLExecutionProvider": "mps"}


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


def network_of(model: Any) -> Network:
    """The network of a loaded ``MDXSeparator``: where segments have another length than the network was made for, the
    library has it converted to torch."""
    if model.uses_pytorch_inference:
        return TorchNetwork(model.model_run, model.torch_device)
    session = inspect.getclosurevars(model.model_run).nonlocals["ort_inference_session"]
    # onnxruntime may know the GPU while the installed torch does not, and the other way round.
    same = _device(session) == transform_device(model).type
    return BoundOnnxNetwork(session) if same else OnnxNetwork(session)


def transform_device(model: Any) -> torch.device:
    """Where the model's transforms are made. Not all other devices know complex numbers: the CPU is good for those."""
    return torch.device("cuda" if model.torch_device.type == "cuda" else "cpu")


class TorchNetwork:
    """A torch module. One segment at a time: what it was converted from may have been made for no more."""

    batch = 1

    def __init__(self, module: torch.nn.Module, device: torch.device) -> None:
        self._module, self._device = module, device

    @property
    def device(self) -> str:
        return self._device.type

    def __call__(self, spectra: Tensor) -> Tensor:
        output: Tensor = self._module(spectra.to(self._device))
        return output.to(spectra.device)


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

    def __init__(self, session: Any) -> None:
        self._session = session
        self._output = session.get_outputs()[0].name
        self.device = _device(session)
        fixed = isinstance(session.get_inputs()[0].shape[0], int)
        self.batch = 1 if fixed or self.device == "cpu" else GPU_BATCH
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
