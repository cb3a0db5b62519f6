"""Batches of equal size on their way to a device.

Where a device takes several segments at a time, every batch has the same size: cuDNN searches for the fastest algorithm
for each new shape, and compiled networks are recompiled for it. Silence fills up the last batch, and the network's
output for it is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from processor.separation.runtime.device_transfer import DeviceTransfer

UploadedBatch = tuple[int, Callable[[], Tensor]]
"""The number of items in a batch, and a callable that returns it on the device (see ``DeviceTransfer.upload``)."""


def upload_batches(items: Iterable[NDArray[Any]], size: int, transfer: DeviceTransfer) -> Iterator[UploadedBatch]:
    """Upload arrays of one shape as float32 tensors ``(size, *shape)``.

    Each item must be valid until the next one is requested, and no longer.
    """
    remaining = iter(items)
    for first in remaining:
        batch = transfer.host_buffer(size, *first.shape)
        count = 0
        for count, item in enumerate(chain([first], islice(remaining, size - 1)), 1):
            batch[count - 1] = torch.from_numpy(item)
        batch[count:] = 0.0
        yield count, transfer.upload(batch)
