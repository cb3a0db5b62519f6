"""The way of batches to a device and of blocks back, while the device works on others.

On CUDA the thread that runs a network waits inside it (``torch.istft`` reads back whether its windows add up to
anything), and what it would do next, read and write files, would be time in which the device has nothing to do. So
networks have a thread of their own, one batch ahead of the files; the copies each way have a stream, and page-locked
memory.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Fetched = Callable[[], NDArray[np.float32]]
"""Waits for a block, and gives it."""

A = TypeVar("A")
B = TypeVar("B")


class DeviceTransfer(Protocol):
    """The way to one device. ``send`` and what ``fetch`` returns are for the thread of the files, ``fetch`` and what
    ``send`` returns for the one of the networks, inside ``map``."""

    def room(self, *shape: int) -> Tensor:
        """Main memory for a batch, float32."""

    def send(self, batch: Tensor) -> Callable[[], Tensor]:
        """Send what ``room`` gave; what is returned gives the batch on the device."""

    def fetch(self, block: Tensor) -> Fetched:
        """Fetch a block; what is returned waits for it."""

    def map(self, work: Callable[[A], B], items: Iterable[A]) -> Generator[B, None, None]:
        """``work`` on each item, in order. Raises what either raises. Once it is closed, nothing is under way."""


def transfer_to(device: torch.device) -> DeviceTransfer:
    """The lane that suits the device."""
    return CudaTransfer(device) if device.type == "cuda" else DirectTransfer(device)


class DirectTransfer:
    """One thing after the other: to a CPU, whose cores the network has all."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def room(self, *shape: int) -> Tensor:
        return torch.empty(shape)

    def send(self, batch: Tensor) -> Callable[[], Tensor]:
        return lambda: batch.to(self._device)

    def fetch(self, block: Tensor) -> Fetched:
        fetched: NDArray[np.float32] = block.cpu().numpy()
        return lambda: fetched

    def map(self, work: Callable[[A], B], items: Iterable[A]) -> Generator[B, None, None]:
        for item in items:
            yield work(item)


class CudaTransfer:
    """To a CUDA device: nothing waits for a copy but who needs what is copied.

    Page-locked memory comes from torch's allocator, which keeps it and knows which copies are under way.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._up, self._down = (torch.cuda.Stream(device) for _ in range(2))  # type: ignore[no-untyped-call]

    def room(self, *shape: int) -> Tensor:
        return torch.empty(shape, pin_memory=True)

    def send(self, batch: Tensor) -> Callable[[], Tensor]:
        with torch.cuda.stream(self._up):
            sent = batch.to(self._device, non_blocking=True)
        complete = self._up.record_event()

        def arrived() -> Tensor:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_event(complete)
            sent.record_stream(computing)
            return sent

        return arrived

    def fetch(self, block: Tensor) -> Fetched:
        self._down.wait_stream(torch.cuda.current_stream(self._device))
        host = torch.empty(block.shape, pin_memory=True)
        with torch.cuda.stream(self._down):
            host.copy_(block, non_blocking=True)
        block.record_stream(self._down)
        complete = self._down.record_event()

        def fetched() -> NDArray[np.float32]:
            complete.synchronize()
            samples: NDArray[np.float32] = host.numpy()
            return samples

        return fetched

    def map(self, work: Callable[[A], B], items: Iterable[A]) -> Generator[B, None, None]:
        return one_ahead(work, items)


def one_ahead(work: Callable[[A], B], items: Iterable[A]) -> Generator[B, None, None]:
    """``map`` in a thread, which works on the next item while its caller has the result of the last one."""
    worker = ThreadPoolExecutor(1, "network")
    try:
        before: Future[Any] | None = None
        for item in items:
            after = worker.submit(work, item)
            if before is not None:
                yield before.result()
            before = after
        if before is not None:
            yield before.result()
    finally:
        worker.shutdown(cancel_futures=True)
