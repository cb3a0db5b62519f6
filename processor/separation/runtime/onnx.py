"""How ONNX Runtime's sessions are made, which the library makes: with our options."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime

from config import Precision
from pipeline.errors import ErrorCode, InfrastructureError
from processor.separation.options import DeviceOptions
from processor.system.cpu import threads

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"

_NO_TENSORRT = (
    "TENSORRT is set, but ONNX Runtime cannot use it: install its GPU build, and the TensorRT version that this build "
    "is made for"
)


def require_tensorrt(options: DeviceOptions) -> None:
    """Raise InfrastructureError (``device_unavailable``) if it is wanted, and this ONNX Runtime is not built for it."""
    if options.tensorrt and TENSORRT not in onnxruntime.get_available_providers():
        raise InfrastructureError(_NO_TENSORRT, code=ErrorCode.DEVICE_UNAVAILABLE)


@contextmanager
def sessions(options: DeviceOptions) -> Iterator[None]:
    """While it lasts, ONNX Runtime's sessions are made such that they keep to our cores and sleep while they wait, and
    that a GPU is used as the options say.

    Where TensorRT is wanted and cannot be loaded, InfrastructureError (``device_unavailable``) is raised.
    """
    stock_options, stock_session = onnxruntime.SessionOptions, onnxruntime.InferenceSession

    def session_options() -> Any:
        made = stock_options()
        # Left to itself it counts the machine's cores, of which a container may have few, and ties a thread to each.
        made.intra_op_num_threads = threads()
        made.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return made

    def session(path: str, *args: Any, providers: Sequence[str], **others: Any) -> Any:
        made = stock_session(path, *args, providers=configured_session(providers, options, Path(path)), **others)
        if options.tensorrt and CUDA in providers and made.get_providers()[0] != TENSORRT:
            raise InfrastructureError(_NO_TENSORRT, code=ErrorCode.DEVICE_UNAVAILABLE)
        return made

    onnxruntime.SessionOptions, onnxruntime.InferenceSession = session_options, session
    try:
        yield
    finally:
        onnxruntime.SessionOptions, onnxruntime.InferenceSession = stock_options, stock_session


def configured_session(providers: Sequence[str], options: DeviceOptions, model: Path) -> list[Any]:
    """The library's choice of providers, with options for those on a GPU."""
    chosen: list[Any] = []
    for provider in providers:
        if provider == CUDA and options.tensorrt:
            chosen.append((TENSORRT, _tensorrt(options, model)))
        chosen.append((CUDA, _cuda(options)) if provider == CUDA else provider)
    return chosen


def _cuda(options: DeviceOptions) -> dict[str, str]:
    exact = options.precision in (Precision.AUTO, Precision.FP32)
    # By default it takes the next power of two of memory, all of which torch would lack.
    return {"use_tf32": "0" if exact else "1", "arena_extend_strategy": "kSameAsRequested"}


def _tensorrt(options: DeviceOptions, model: Path) -> dict[str, str]:
    flags = {
        "trt_fp16_enable": options.precision is Precision.FP16,
        "trt_bf16_enable": options.precision is Precision.BF16,
        "trt_engine_cache_enable": options.engines is not None,
        "trt_timing_cache_enable": options.engines is not None,
    }
    chosen = {name: str(flag) for name, flag in flags.items()}
    if options.engines is not None:
        # It tells models apart by their names and layers, and not by their weights.
        with model.open("rb") as file:
            folder = options.engines / hashlib.file_digest(file, "sha256").hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        chosen["trt_engine_cache_path"] = chosen["trt_timing_cache_path"] = str(folder)
    return chosen
