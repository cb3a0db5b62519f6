"""The gate before the device: one separation at a time, in the order in which the jobs were ready for it.

Whoever leaves it hands his stems off outside, so that the next separation begins at once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.cancel import CancelToken
from pipeline.lifecycle import StopSignal
from processor.waiting import WaitingRoom


@dataclass(frozen=True, slots=True)
class Turn:
    """How a job and the device came together."""

    waited: float
    """How long the job waited for the device, s."""
    idle: float
    """How long the device waited for a job, s."""


class DeviceGate:
    """Lets one lane at a time to the device. Thread-safe."""

    def __init__(self, stop: StopSignal) -> None:
        self._room = WaitingRoom(stop)
        self._line: deque[object] = deque()
        """The first is at the device."""
        self._free_since = time.monotonic()

    @contextmanager
    def turn(self, cancel: CancelToken) -> Iterator[Turn]:
        """The device, for as long as the block takes.

        Raises CancelledError instead of waiting (on) if the job is cancelled or the service stops; a job that finds
        the device free may begin while the service stops, and end within its grace.
        """
        cancel.raise_if_set()
        ticket, came = object(), time.monotonic()
        with self._room:
            self._line.append(ticket)
        try:
            with self._room:
                self._room.wait_for(lambda: self._line[0] is ticket, cancel)
                began = time.monotonic()
                turn = Turn(began - came, began - self._free_since)
            yield turn
        finally:
            with self._room:
                if self._line[0] is ticket:
                    self._free_since = time.monotonic()
                self._line.remove(ticket)
                self._room.notify()
