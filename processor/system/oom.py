"""Recognise out-of-memory errors and errors of the device, of Python, numpy, torch, ONNX Runtime and the system.

These errors have no common type, and torch and ONNX Runtime raise only their general types when main memory runs out.
Their messages are therefore matched. This module imports none of these libraries.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

#: Parts of the messages of torch (a RuntimeError or a subclass) and of ONNX Runtime (own subclasses of Exception).
_OUT_OF_MEMORY = (
    "can't allocate memory",  # torch, main memory: "DefaultCPUAllocator: can't allocate memory: you tried to …"
    "not enough memory",  # the same on Windows
    "out of memory",  # torch.OutOfMemoryError, "CUDA error: out of memory", "MPS backend out of memory"
    "ALLOC_FAILED",  # CUFFT_ALLOC_FAILED, CUBLAS_STATUS_ALLOC_FAILED, CUDNN_STATUS_ALLOC_FAILED
    "Failed to allocate memory",  # ONNX Runtime's arena: "… for requested buffer of size …"
    "smaller than requested bytes",  # the same, when a limit of its own is reached
    "could not create a primitive",  # oneDNN (torch's convolutions on a CPU): its only message for lack of memory
    "bad_alloc",  # C++, through either library
    "can't start new thread",  # Python: no memory for its stack, or a limit of the system
)

#: Parts of the messages about a device that may not work any more. After most of them, every call fails.
_DEVICE = (
    "CUDA error",  # torch
    "CUDA failure",  # ONNX Runtime
    "CUDA driver",
    "cuDNN error",
    "CUDNN_STATUS_",
    "CUBLAS_STATUS_",
    "cuFFT error",
    "HIP error",
    "device-side assert",
    "NVML",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if ``error``, or an error in its chain of causes, reports a lack of main or device memory."""
    return any(
        isinstance(cause, MemoryError)
        or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM)
        or _mentions(cause, _OUT_OF_MEMORY)
        for cause in cause_chain(error)
    )


def is_device_error(error: BaseException) -> bool:
    """Return True if ``error``, or an error in its chain of causes, is a failure of the device or of its driver."""
    return any(_mentions(cause, _DEVICE) for cause in cause_chain(error))


def cause_chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its chain of causes."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _mentions(error: BaseException, texts: tuple[str, ...]) -> bool:
    from_library = isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime.")
    return from_library and any(text in str(error) for text in texts)
