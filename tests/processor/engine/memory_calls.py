"""Functions that tests of out-of-memory errors run in the process with audio-separator."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from processor.system.oom import is_out_of_memory

MIB = 1 << 20


def data_bytes(pid: int | str = "self") -> int:
    """Return the bytes of a process that count for RLIMIT_DATA."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmData"))
    return int(line.split()[1]) * 1024


@contextmanager
def memory_limit(extra: int) -> Iterator[None]:
    """Limit this process to ``extra`` bytes more than it has now."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + extra, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def provoked_error(library: str) -> str:
    """Return the type of a library's out-of-memory error. Raises the error if it is not recognised."""
    allocate = _ALLOCATIONS[library]()
    with memory_limit(50 * MIB):
        try:
            allocate()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return (MemoryError if isinstance(error, MemoryError) else type(error)).__name__
    return "none"


def _python() -> Callable[[], object]:
    return lambda: bytearray(1 << 30)


def _numpy() -> Callable[[], object]:
    return lambda: np.zeros(1 << 28)


def _torch() -> Callable[[], object]:
    import torch

    return lambda: torch.zeros(1 << 28)


def _onnxruntime(*, arena: bool) -> Callable[[], object]:
    import onnxruntime
    from onnx import TensorProto, helper

    weights = helper.make_tensor("w", TensorProto.FLOAT, [4, 4096], [0.0] * 4 * 4096)
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "wide", [given], [result], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = arena
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rows = np.zeros((20_000, 4), np.float32)
    return lambda: session.run(None, {"x": rows})


_ALLOCATIONS: dict[str, Callable[[], Callable[[], object]]] = {
    "python": _python,
    "numpy": _numpy,
    "torch": _torch,
    "onnxruntime": lambda: _onnxruntime(arena=True),
    "onnxruntime without its arena": lambda: _onnxruntime(arena=False),
}
