"""How much disk the files of waiting jobs may take together.

How long a song is, and so how large it is decoded, is known only when it has been decoded. So a job asks for the most
that its next step can write before it begins with it, and gives back what it did not need afterwards:

    step       asks for                                           keeps
    download   ``MAX_AUDIO_BYTES``                                the file
    decoding   the file, and a song of ``MAX_AUDIO_SECONDS`` in   the decoded song
               its two working copies

Jobs line up as they come in, and the first in the line gets all that it asks for: it is the one that the device would
have to wait for. Several children may all be waiting, so with them there are as many that are first. The others
get what fits beside what all hold. So all but the first keep to the limit together, no child waits for a job that is
held up, and no two jobs can wait for each other: whoever holds files and waits for more is first in the end. A job that
has come to the device is out of the line, and its files count no more; one that has to leave it unseparated is back in
its old place, so that for a while one more may have been first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

from pipeline.cancellation import CancelToken
from pipeline.service.shutdown import StopSignal
from processor.stop_condition import StoppableCondition


class DiskBudget:
    """``limit``: bytes. ``children``: how many jobs are first. Thread-safe."""

    def __init__(self, limit: int, stop: StopSignal, children: int = 1) -> None:
        self._limit = limit
        self._children = children
        self._room = StoppableCondition(stop)
        self._line: list[DiskReservation] = []

    @contextmanager
    def place(self) -> Iterator[DiskReservation]:
        """A place at the end of the line; nothing is held by it when the block is left."""
        place = DiskReservation(self)
        with self._room:
            self._line.append(place)
        try:
            yield place
        finally:
            with self._room:
                self._line.remove(place)
                self._room.notify()

    @property
    def held(self) -> int:
        """Bytes that waiting jobs hold or have been granted."""
        return sum(place.bytes for place in self._line if place.waiting)

    def _grant(self, place: DiskReservation, wanted: int, cancel: CancelToken) -> None:
        with self._room:
            self._room.wait_for(lambda: self._may(place, wanted), cancel)
            place.bytes = wanted

    def _may(self, place: DiskReservation, wanted: int) -> bool:
        waiting = (other for other in self._line if other.waiting)
        return place in islice(waiting, self._children) or self.held - place.bytes + wanted <= self._limit

    def _change(self, place: DiskReservation, *, held: int | None = None, waiting: bool | None = None) -> None:
        with self._room:
            place.bytes = place.bytes if held is None else held
            place.waiting = place.waiting if waiting is None else waiting
            self._room.notify()


class DiskReservation:
    """One job's place in the line."""

    def __init__(self, budget: DiskBudget) -> None:
        self._budget = budget
        self.bytes = 0
        """What the job holds, or has been granted."""
        self.waiting = True
        """Whether the job has yet to come to the device."""

    def ask_for(self, wanted: int, cancel: CancelToken) -> None:
        """Wait until the job may have ``wanted`` bytes on the disk in all.

        Raises CancelledError instead of waiting (on) if the job is cancelled or the service stops.
        """
        self._budget._grant(self, wanted, cancel)

    def keep(self, held: int) -> None:
        """The job has ``held`` bytes on the disk, and writes no more for now."""
        self._budget._change(self, held=held)

    @contextmanager
    def at_the_device(self) -> Iterator[None]:
        """The job does not wait any more, unless the block raises: then it is back in its old place."""
        self._budget._change(self, waiting=False)
        try:
            yield
        except BaseException:
            self._budget._change(self, waiting=True)
            raise
