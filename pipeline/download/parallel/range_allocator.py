"""Range arithmetic: which bytes of a file are still missing, and which worker fetches them.

Every byte of the file is, at any time, exactly one of: written, assigned, or free. Nothing here uses threads, sockets
or files; callers that share a ``RangeAllocator`` hold a lock around each call.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from config import KIB

#: Boundaries are multiples of this, so that each page of the disk has one writer.
ALIGNMENT = 64 * KIB


class ByteRange(NamedTuple):
    """Bytes ``start`` to ``end`` (exclusive)."""

    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


def missing_ranges(total: int, present: Iterable[ByteRange]) -> Iterator[ByteRange]:
    """Yield, in order, the gaps that ``present`` (in any order, overlapping or not) leaves in ``total`` bytes."""
    position = 0
    for start, end in sorted(span for span in present if span.size):
        if start > position:
            yield ByteRange(position, min(start, total))
        position = max(position, end)
    if position < total:
        yield ByteRange(position, total)


@dataclass(eq=False, slots=True)
class RangeSegment:
    """A part of the file that one worker fetches, or several concurrently (hedged requests)."""

    end: int
    written: int
    """All bytes before this are written."""
    workers: int = 1
    shared_at: float = 0.0
    """Time of the last hedged request, on the monotonic clock."""


@dataclass(eq=False, slots=True)
class Assignment:
    """The work of one worker: its connection has delivered ``start`` to ``position``."""

    start: int
    position: int
    segment: RangeSegment

    @property
    def end(self) -> int:
        return self.segment.end

    @property
    def remaining(self) -> int:
        """Bytes still expected from the connection; 0 once other workers have written them all."""
        return self.end - self.position if self.segment.written < self.end else 0


class RangeAllocator:
    """Assigns the ``free`` ranges of a file, and splits or shares the ranges of busy workers with idle ones."""

    def __init__(self, free: Iterable[ByteRange]) -> None:
        self._free = sorted(span for span in free if span.size > 0)
        self._assigned: list[Assignment] = []
        self.missing = sum(span.size for span in self._free)
        """Bytes that are not written yet."""
        self.min_split = ALIGNMENT
        """Minimum size of both parts when an assignment is split, bytes."""
        self.lead = 0
        """Bytes that a busy connection delivers before a new one delivers its first."""

    def take(self) -> Assignment | None:
        """Assign the first free range; None if there is none."""
        if not self._free:
            return None
        start, end = self._free.pop(0)
        return self._assign(start, RangeSegment(end, start))

    def split(self, count: int, *, max_bytes: int | None = None) -> None:
        """Free ranges of busy workers until ``count`` are free, as far as ``min_split`` allows.

        The parts are sized so that all workers finish at the same time: a connection that already delivers keeps
        ``lead`` bytes more. ``max_bytes`` limits each freed range instead, taken from the end.
        """
        candidates = [
            (assignment, assignment.remaining - self.lead * (assignment.position > assignment.start))
            for assignment in self._assigned
            if assignment.segment.workers == 1 and assignment.position >= assignment.segment.written
        ]
        parts = [1] * len(candidates)
        for _ in range(count - len(self._free)):
            index = max(range(len(parts)), key=lambda index: candidates[index][1] / parts[index], default=None)
            if index is None or candidates[index][1] < self.min_split * (parts[index] + 1):
                break
            parts[index] += 1
        for (assignment, size), number in zip(candidates, parts, strict=True):
            if number > 1:
                self._cut(assignment, number, size if max_bytes is None else min(size, max_bytes * number))

    def share(self, assignment: Assignment, now: float) -> Assignment:
        """Assign the unwritten rest of ``assignment`` to a second worker as well. ``now``: on the monotonic clock."""
        segment = assignment.segment
        segment.workers += 1
        segment.shared_at = now
        return self._assign(segment.written, segment)

    def claim(self, assignment: Assignment, received: int) -> int:
        """Return how many of the next ``received`` bytes of a connection are to be written.

        These are fewer than were received if the end of the range was split off in the meantime.
        """
        count = min(received, max(assignment.end - assignment.position, 0))
        assignment.position += count
        return count

    def wrote(self, assignment: Assignment, end: int) -> None:
        """Record that all bytes of ``assignment`` before ``end`` are written."""
        segment = assignment.segment
        self.missing -= max(end - segment.written, 0)
        segment.written = max(segment.written, end)

    def release(self, assignment: Assignment) -> None:
        """End ``assignment``, and free what is not written unless another worker fetches it as well."""
        self._assigned.remove(assignment)
        segment = assignment.segment
        segment.workers -= 1
        if segment.workers or segment.written >= segment.end:
            return
        insort(self._free, ByteRange(segment.written, segment.end))
        merged: list[ByteRange] = []
        for start, end in self._free:
            if merged and merged[-1].end == start:
                merged[-1] = ByteRange(merged[-1].start, end)
            else:
                merged.append(ByteRange(start, end))
        self._free = merged

    def _assign(self, start: int, segment: RangeSegment) -> Assignment:
        assignment = Assignment(start, start, segment)
        self._assigned.append(assignment)
        return assignment

    def _cut(self, assignment: Assignment, parts: int, size: int) -> None:
        """Keep the first of ``parts`` equal parts of the last ``size`` bytes assigned, and free the others."""
        end = assignment.end
        cuts = {_align(end - size * number // parts) for number in range(1, parts)}
        starts = sorted(start for start in cuts if assignment.position < start < end)
        for start, stop in pairwise((*starts, end)):
            assignment.segment.end = min(assignment.end, start)
            insort(self._free, ByteRange(start, stop))


def _align(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT
