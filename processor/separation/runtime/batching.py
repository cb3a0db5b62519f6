"""Segments in batches of one size, on their way to a device.

Where a device is given several segments at a time, every batch has as many: cuDNN looks for the fastest algorithm at
each new shape, and compiled networks are made anew for it. What is missing in the last batch is silence, and what the
network makes of that is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from processor.separation.runtime.device_transfer import DeviceTransfer

Sent = tuple[int, Callable[[], Tensor]]
"""How many items of a batch are meant, and what gives the batch on the device; see ``DeviceTransfer.send``."""


def batches(items: Iterable[NDArray[Any]], size: int, lane: DeviceTransfer) -> Iterator[Sent]:
    """Arrays of one shape, sent as float32 tensors ``(size, *shape)``. An item has to be good until the next one is
    asked for, and no longer."""
    remaining = iter(items)
    for first in remaining:
        batch = lane.room(size, *first.shape)
        count = 0
        for count, item in enumerate(chain([first], islice(remaining, size - 1)), 1):
            batch[count - 1] = torch.from_numpy(item)
        batch[count:] = 0.0
        yield count, lane.send(batch)
