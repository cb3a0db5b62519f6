"""The limit on the disk space that the files of waiting jobs take together.

The length of a song, and so its decoded size, is known only after decoding. A job therefore requests the maximum that
its next step can write before it starts the step, and returns the unused part afterwards:

    step       requests                                           keeps
    download   ``MAX_AUDIO_BYTES``                                the file
    decoding   the file, and a song of ``MAX_AUDIO_SECONDS`` in   the decoded song
               its two working copies

Jobs queue in the order of their arrival. The job at the head of the queue is granted every request: it is the one that
the device would have to wait for. With several child processes, as many jobs count as the head as there are children.
Every other job is granted what fits beside everything that is held. So all jobs but those at the head keep to the
limit together, no child waits for a job that is blocked, and no two jobs can deadlock: a job that holds files and waits
for more reaches the head in the end.

A job at the device is outside the queue, and its files do not count. If it has to leave the device without being
separated, it returns to its old position, so that for a while one more job may have been at the head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

from pipeline.cancellation import CancelToken
from pipeline.service.shutdown import StopSignal
from processor.stop_condition import StoppableCondition


class DiskBudget:
    """A budget of ``limit`` bytes, shared by the jobs that wait for ``children`` child processes. Thread-safe."""

    def __init__(self, limit: int, stop: StopSignal, children: int = 1) -> None:
        self._limit = limit
        self._children = children
        self.condition = StoppableCondition(stop)
        """Guards the queue and all reservations in it."""
        self._queue: list[DiskReservation] = []

    @contextmanager
    def reserve(self) -> Iterator[DiskReservation]:
        """Yield an empty reservation at the end of the queue; leaving the block returns all of its bytes."""
        reservation = DiskReservation(self)
        with self.condition:
            self._queue.append(reservation)
        try:
            yield reservation
        finally:
            with self.condition:
                self._queue.remove(reservation)
                self.condition.notify()

    @property
    def held(self) -> int:
        """Return the bytes that waiting jobs hold or have been granted."""
        return sum(reservation.bytes for reservation in self._queue if reservation.waiting)

    def admits(self, reservation: DiskReservation, wanted: int) -> bool:
        """Return whether the reservation may grow to ``wanted`` bytes now. Call with ``condition`` held."""
        waiting = (other for other in self._queue if other.waiting)
        at_head = reservation in islice(waiting, self._children)
        return at_head or self.held - reservation.bytes + wanted <= self._limit


class DiskReservation:
    """The disk space of one job, and its position in the queue."""

    def __init__(self, budget: DiskBudget) -> None:
        self._budget = budget
        self._condition = budget.condition
        self.bytes = 0
        """Bytes that the job holds or has been granted."""
        self.waiting = True
        """False while the job is at the device."""

    def request(self, wanted: int, cancel: CancelToken) -> None:
        """Wait until the job may hold ``wanted`` bytes on the disk in total.

        Raises CancelledError instead of waiting if the job is cancelled or the service stops.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._budget.admits(self, wanted), cancel)
            self.bytes = wanted

    def keep(self, held: int) -> None:
        """Reduce the reservation to the ``held`` bytes that the job has on the disk after a step."""
        with self._condition:
            self.bytes = held
            self._condition.notify()

    @contextmanager
    def at_device(self) -> Iterator[None]:
        """Take the job out of the queue. If the block raises, the job returns to its old position."""
        with self._condition:
            self.waiting = False
            self._condition.notify()
        try:
            yield
        except BaseException:
            with self._condition:
                self.waiting = True
                self._condition.notify()
            raise
