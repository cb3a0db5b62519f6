"""Networks compiled: by torch's inductor, or recorded as a CUDA graph and played again.

Both are options. What does not compile runs as it is, with one line in the log. It is done when a model is loaded, on a
batch of the size that songs will come in, so that no job waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from config import Compile
from pipeline.service.logs import get_logger

log = get_logger(__name__)

#: Versions of one region, for batches and segments of other sizes, before torch runs it as it is.
_VERSIONS = 64

Run = Callable[[Tensor], Tensor]


def compile_network(kind: Compile, regions: Sequence[nn.Module], trial: Callable[[], object]) -> bool:
    """Have the regions of a network compiled, for fixed sizes. ``trial`` runs the network; if that fails, all of them
    are as they were. Whether they are compiled."""
    if kind is not Compile.INDUCTOR:
        return False
    if not regions:
        log.warning("compile_failed", why="nothing of this network is known to compile")
        return False
    try:
        _permit_versions()
        for region in regions:
            region.compile(dynamic=False)
        trial()
    except Exception as error:  # noqa: BLE001 - a compiler has no type for its errors
        for region in regions:
            region._compiled_call_impl = None
        log.warning("compile_failed", why=f"{type(error).__name__}: {str(error)[:300]}")
        return False
    log.info("network_compiled", regions=len(regions))
    return True


def _permit_versions() -> None:
    from torch import _dynamo

    _dynamo.config.recompile_limit = max(_VERSIONS, _dynamo.config.recompile_limit)


class CudaGraph:
    """A function of one tensor, recorded as a CUDA graph for the size that it is given, and played at the next.

    For functions that launch kernels and do nothing else: no copies from main memory, no waiting. What it returns is
    good until the next call.
    """

    def __init__(self, run: Run, device: torch.device) -> None:
        self._run, self._device = run, device
        self._held: tuple[Any, Tensor, Tensor] | None = None
        self._failed = False

    def __call__(self, given: Tensor) -> Tensor:
        if not self._failed and (self._held is None or self._held[1].shape != given.shape):
            self._record(given)
        if self._held is None:
            return self._run(given)
        graph, taken, output = self._held
        taken.copy_(given)
        graph.replay()
        return output

    def _record(self, given: Tensor) -> None:
        self._held = None  # or the memory of both would be taken
        try:
            self._held = record_cuda_graph(self._run, given, self._device)
        except Exception as error:  # noqa: BLE001 - torch has none for what cannot be recorded
            self._failed = True
            log.warning("compile_failed", why=f"{type(error).__name__}: {str(error)[:300]}")


def record_cuda_graph(run: Run, given: Tensor, device: torch.device) -> tuple[Any, Tensor, Tensor]:
    """A graph, the tensor that it reads, and the one that it writes. Raises RuntimeError for what cannot be recorded.

    As https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs has it: first run on another stream, so that
    libraries have what they allocate at first use.
    """
    if device.type != "cuda":
        raise RuntimeError("CUDA graphs are for CUDA devices")
    taken = given.clone()
    side, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(current)
    with torch.cuda.stream(side):
        for _ in range(3):
            run(taken)
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # The thread of the files allocates page-locked memory meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        output = run(taken)
    return graph, taken, output
