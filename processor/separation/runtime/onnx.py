"""Configuration of the ONNX Runtime sessions that audio-separator creates."""

from __future__ import annotations

import hashlib
import os
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
    """Raise InfrastructureError (``device_unavailable``) if TensorRT is wanted and this ONNX Runtime lacks it."""
    if options.tensorrt and TENSORRT not in onnxruntime.get_available_providers():
        raise InfrastructureError(_NO_TENSORRT, code=ErrorCode.DEVICE_UNAVAILABLE)


@contextmanager
def configured_sessions(options: DeviceOptions) -> Iterator[None]:
    """Patch ONNX Runtime so that new sessions respect the limit of threads, sleep while they wait, and use a GPU as
    the options ask.

    Creating a session raises InfrastructureError (``device_unavailable``) where TensorRT is wanted and cannot be
    loaded.
    """
    upstream_options, upstream_session = onnxruntime.SessionOptions, onnxruntime.InferenceSession

    def session_options() -> Any:
        created = upstream_options()
        # The default is one thread per core of the machine, pinned to it; a container may have fewer cores.
        created.intra_op_num_threads = threads(os.environ)
        created.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return created

    def session(path: str, *args: Any, providers: Sequence[str], **others: Any) -> Any:
        configured = configured_providers(providers, options, Path(path))
        created = upstream_session(path, *args, providers=configured, **others)
        if options.tensorrt and CUDA in providers and created.get_providers()[0] != TENSORRT:
            raise InfrastructureError(_NO_TENSORRT, code=ErrorCode.DEVICE_UNAVAILABLE)
        return created

    onnxruntime.SessionOptions, onnxruntime.InferenceSession = session_options, session
    try:
        yield
    finally:
        onnxruntime.SessionOptions, onnxruntime.InferenceSession = upstream_options, upstream_session


def configured_providers(providers: Sequence[str], options: DeviceOptions, model: Path) -> list[Any]:
    """Return audio-separator's choice of providers, with options for those on a GPU."""
    configured: list[Any] = []
    for provider in providers:
        if provider != CUDA:
            configured.append(provider)
            continue
        if options.tensorrt:
            configured.append((TENSORRT, _tensorrt_options(options, model)))
        exact = options.precision in (Precision.AUTO, Precision.FP32)
        # The default strategy allocates the next power of two of memory, which torch would lack.
        cuda = {"use_tf32": "0" if exact else "1", "arena_extend_strategy": "kSameAsRequested"}
        configured.append((CUDA, cuda))
    return configured


def _tensorrt_options(options: DeviceOptions, model: Path) -> dict[str, str]:
    flags = {
        "trt_fp16_enable": options.precision is Precision.FP16,
        "trt_bf16_enable": options.precision is Precision.BF16,
        "trt_engine_cache_enable": options.engines is not None,
        "trt_timing_cache_enable": options.engines is not None,
    }
    chosen = {name: str(flag) for name, flag in flags.items()}
    if options.engines is not None:
        # TensorRT distinguishes models by their names and layers, not by their weights: one folder per weights file.
        with model.open("rb") as file:
            folder = options.engines / hashlib.file_digest(file, "sha256").hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        chosen["trt_engine_cache_path"] = chosen["trt_timing_cache_path"] = str(folder)
    return chosen
