"""Compiled networks: by torch's inductor, or captured as a CUDA graph that is replayed.

Both are options. A network that cannot be compiled runs uncompiled, with one line in the log. Networks are compiled
when their model is loaded, for the batch size of songs, so that no job waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from config import Compile
from pipeline.service.logs import get_logger

log = get_logger(__name__)

#: Versions of one region, for other sizes of batches and segments, after which torch runs it uncompiled.
_MAX_VERSIONS = 64

Run = Callable[[Tensor], Tensor]


def compile_network(kind: Compile, regions: Sequence[nn.Module], trial: Callable[[], object]) -> bool:
    """Compile the regions of a network for fixed sizes and return whether they are compiled.

    ``trial`` runs the network. If it fails, all regions are reset to run uncompiled.
    """
    if kind is not Compile.INDUCTOR:
        return False
    if not regions:
        log.warning("compile_failed", reason="no part of this network can be compiled")
        return False
    try:
        from torch import _dynamo

        _dynamo.config.recompile_limit = max(_MAX_VERSIONS, _dynamo.config.recompile_limit)
        for region in regions:
            region.compile(dynamic=False)
        trial()
    except Exception as error:  # noqa: BLE001 - compiler errors have no common type
        for region in regions:
            region._compiled_call_impl = None
        log.warning("compile_failed", reason=f"{type(error).__name__}: {str(error)[:300]}")
        return False
    log.info("network_compiled", regions=len(regions))
    return True


class CudaGraph:
    """Captures a function of one tensor as a CUDA graph for the input's size, and replays it for later inputs.

    The function may only launch kernels: no copies from main memory, no synchronisation. A call's result is valid until
    the next call. A function that cannot be captured runs directly.
    """

    def __init__(self, run: Run, device: torch.device) -> None:
        self._run, self._device = run, device
        self._captured: tuple[Any, Tensor, Tensor] | None = None
        self._failed = False

    def __call__(self, inputs: Tensor) -> Tensor:
        if not self._failed and (self._captured is None or self._captured[1].shape != inputs.shape):
            self._captured = None  # freed first: both graphs may not fit into memory
            try:
                self._captured = self._capture(inputs)
            except Exception as error:  # noqa: BLE001 - torch has no type for what cannot be captured
                self._failed = True
                log.warning("compile_failed", reason=f"{type(error).__name__}: {str(error)[:300]}")
        if self._captured is None:
            return self._run(inputs)
        graph, static_input, output = self._captured
        static_input.copy_(inputs)
        graph.replay()
        return output

    def _capture(self, inputs: Tensor) -> tuple[Any, Tensor, Tensor]:
        """Return a graph, the tensor that it reads, and the tensor that it writes.

        Raises RuntimeError for a function that cannot be captured. Follows
        https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs: the warm-up runs on a side stream, so that
        libraries allocate what they need at first use.
        """
        if self._device.type != "cuda":
            raise RuntimeError("CUDA graphs are for CUDA devices")
        static_input = inputs.clone()
        side: Any = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        current = torch.cuda.current_stream(self._device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(3):
                self._run(static_input)
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # The thread of the file I/O allocates page-locked memory during the capture.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            output = self._run(static_input)
        return graph, static_input, output
