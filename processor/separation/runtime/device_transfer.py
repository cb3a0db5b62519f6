"""Transfers of batches to a device and of blocks back, in parallel with the device's work.

On CUDA, the thread that runs a network blocks inside it: ``torch.istft`` reads back whether the sum of its windows is
nonzero. If that thread also read and wrote files, the device would be idle meanwhile. So the network runs in a worker
thread, one batch ahead of the file I/O. Copies in each direction have their own CUDA stream and use page-locked memory.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Download = Callable[[], NDArray[np.float32]]
"""Waits for a block to arrive in main memory and returns it."""

A = TypeVar("A")
B = TypeVar("B")


class DeviceTransfer:
    """Synchronous transfers, for a CPU, whose cores the network uses all, and for devices without CUDA.

    The thread of the file I/O calls ``host_buffer``, ``upload`` and the result of ``download``. Inside ``map``, the
    thread of the network calls ``download`` and the result of ``upload``.
    """

    #: Whether ``host_buffer`` allocates page-locked memory.
    _pin_memory = False

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def host_buffer(self, *shape: int) -> Tensor:
        """Allocate main memory for a batch, float32, uninitialised."""
        return torch.empty(shape, pin_memory=self._pin_memory)

    def upload(self, batch: Tensor) -> Callable[[], Tensor]:
        """Start the upload of a ``host_buffer``. The result returns the batch on the device."""
        return lambda: batch.to(self._device)

    def download(self, block: Tensor) -> Download:
        """Start the download of a block. The result waits for it."""
        host: NDArray[np.float32] = block.cpu().numpy()
        return lambda: host

    def map(self, work: Callable[[A], B], items: Iterable[A]) -> Generator[B, None, None]:
        """Yield ``work(item)`` for each item, in order. Raises what either raises. ``close`` waits for running work."""
        for item in items:
            yield work(item)


class CudaTransfer(DeviceTransfer):
    """Asynchronous transfers: only a thread that needs the copied data waits for the copy.

    Page-locked memory comes from torch's allocator, which reuses it and tracks the copies in progress.
    """

    _pin_memory = True

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._uploads, self._downloads = (torch.cuda.Stream(device) for _ in range(2))  # type: ignore[no-untyped-call]

    def upload(self, batch: Tensor) -> Callable[[], Tensor]:
        with torch.cuda.stream(self._uploads):
            uploaded = batch.to(self._device, non_blocking=True)
        complete = self._uploads.record_event()

        def wait() -> Tensor:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_event(complete)
            uploaded.record_stream(computing)
            return uploaded

        return wait

    def download(self, block: Tensor) -> Download:
        self._downloads.wait_stream(torch.cuda.current_stream(self._device))
        host = self.host_buffer(*block.shape)
        with torch.cuda.stream(self._downloads):
            host.copy_(block, non_blocking=True)
        block.record_stream(self._downloads)
        complete = self._downloads.record_event()

        def wait() -> NDArray[np.float32]:
            complete.synchronize()
            samples: NDArray[np.float32] = host.numpy()
            return samples

        return wait

    def map(self, work: Callable[[A], B], items: Iterable[A]) -> Generator[B, None, None]:
        return pipelined(work, items)


def transfer_for(device: torch.device) -> DeviceTransfer:
    """Return the transfer that suits the device."""
    return CudaTransfer(device) if device.type == "cuda" else DeviceTransfer(device)


def pipelined(work: Callable[[A], B], items: Iterable[A]) -> Generator[B, None, None]:
    """``DeviceTransfer.map`` in a worker thread, which works on the next item while the caller uses the last result."""
    worker = ThreadPoolExecutor(1, "network")
    try:
        previous: Future[Any] | None = None
        for item in items:
            current = worker.submit(work, item)
            if previous is not None:
                yield previous.result()
            previous = current
        if previous is not None:
            yield previous.result()
    finally:
        worker.shutdown(cancel_futures=True)
