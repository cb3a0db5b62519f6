"""Recognises that memory ran out, whoever says so: Python, numpy, torch, ONNX Runtime, CUDA's libraries, the system.

They have no type in common, and torch and ONNX Runtime raise nothing but their general ones for main memory. So the
texts decide there. Imports none of these libraries.
"""

from __future__ import annotations

import errno

#: What torch (a RuntimeError, or a class under it) and ONNX Runtime (classes of its own, under Exception) say.
_TEXTS = (
    "can't allocate memory",  # torch, main memory: "DefaultCPUAllocator: can't allocate memory: you tried to …"
    "not enough memory",  # the same on Windows
    "out of memory",  # torch.OutOfMemoryError, "CUDA error: out of memory", "MPS backend out of memory"
    "ALLOC_FAILED",  # CUFFT_ALLOC_FAILED, CUBLAS_STATUS_ALLOC_FAILED, CUDNN_STATUS_ALLOC_FAILED
    "Failed to allocate memory",  # ONNX Runtime's arena: "… for requested buffer of size …"
    "smaller than requested bytes",  # the same, at a limit of its own
    "could not create a primitive",  # oneDNN, of torch's convolutions on a CPU: short of main memory it says no more
    "bad_alloc",  # C++, by way of either
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error``, or one that it came of, says that there is no more memory: main memory or a device's."""
    seen: BaseException | None = error
    while seen is not None:
        if _says_so(seen):
            return True
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return False


def _says_so(error: BaseException) -> bool:
    match error:
        case MemoryError() | OSError(errno=errno.ENOMEM):
            return True
        case RuntimeError():
            return _is_told(error)
        case _:
            return type(error).__module__.startswith("onnxruntime.") and _is_told(error)


def _is_told(error: BaseException) -> bool:
    said = str(error)
    return any(text in said for text in _TEXTS)
