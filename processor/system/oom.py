"""Recognise out-of-memory errors of Python, numpy, torch, ONNX Runtime, the CUDA libraries and the operating system.

These errors have no common type, and torch and ONNX Runtime raise only their general types when main memory runs out.
Their messages are therefore matched. This module imports none of these libraries.
"""

from __future__ import annotations

import errno

#: Parts of the messages of torch (a RuntimeError or a subclass) and of ONNX Runtime (own subclasses of Exception).
_TEXTS = (
    "can't allocate memory",  # torch, main memory: "DefaultCPUAllocator: can't allocate memory: you tried to …"
    "not enough memory",  # the same on Windows
    "out of memory",  # torch.OutOfMemoryError, "CUDA error: out of memory", "MPS backend out of memory"
    "ALLOC_FAILED",  # CUFFT_ALLOC_FAILED, CUBLAS_STATUS_ALLOC_FAILED, CUDNN_STATUS_ALLOC_FAILED
    "Failed to allocate memory",  # ONNX Runtime's arena: "… for requested buffer of size …"
    "smaller than requested bytes",  # the same, when a limit of its own is reached
    "could not create a primitive",  # oneDNN (torch's convolutions on a CPU): its only message for lack of memory
    "bad_alloc",  # C++, through either library
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if ``error``, or an error in its chain of causes, reports a lack of main or device memory."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM):
            return True
        from_library = isinstance(cause, RuntimeError) or type(cause).__module__.startswith("onnxruntime.")
        if from_library and any(text in str(cause) for text in _TEXTS):
            return True
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return False
