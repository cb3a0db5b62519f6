"""Range arithmetic: which bytes of a file are still missing, and which worker fetches them.

Every byte of the file is, at any time, exactly one of: written, assigned, or free. Nothing here uses threads, sockets
or files; callers that share a ``RangeAllocator`` hold a lock around each call.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from config import KIB, MIB

#: Boundaries are multiples of this, so that each page of the disk has one writer.
ALIGNMENT = 64 * KIB
MAX_PIECE = 16 * MIB
_PIECES_PER_FILE = 64


class ByteRange(NamedTuple):
    """Bytes ``start`` to ``end`` (exclusive)."""

    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


def piece_size(total: int, minimum: int = MIB) -> int:
    """Return the journal's piece size for a file of ``total`` bytes: 1/64 of it, ``minimum`` to 16 MiB, aligned."""
    return _align(min(max(-(-total // _PIECES_PER_FILE), minimum), max(MAX_PIECE, minimum)))


def missing_ranges(total: int, present: Iterable[ByteRange]) -> Iterator[ByteRange]:
    """Yield, in order, the gaps that ``present`` (in any order, overlapping or not) leaves in ``total`` bytes."""
    position = 0
    for start, end in sorted(span for span in present if span.size):
        if start > position:
            yield ByteRange(position, min(start, total))
        position = max(position, end)
    if position < total:
        yield ByteRange(position, total)


@dataclass(slots=True)
class RangeSegment:
    """A part of the file that one worker fetches, or several concurrently (hedged requests)."""

    end: int
    claimed: int
    """All bytes before this were received, and one of the workers writes them."""
    written: int
    """All bytes before this are written."""
    out_of_order: list[ByteRange] = field(default_factory=list)
    """Ranges written beyond ``written``, while another worker still writes the bytes between."""
    workers: int = 1


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
        """Bytes still expected from the connection; 0 once other workers have received them all."""
        return self.end - self.position if self.segment.claimed < self.end else 0


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

    def low_water(self, total: int) -> int:
        """Return the position up to which the file is written without a gap."""
        written = (assignment.segment.written for assignment in self._assigned)
        return min((*(span.start for span in self._free), *written, total))

    def take(self) -> Assignment | None:
        """Assign the first free range; None if there is none."""
        if not self._free:
            return None
        span = self._free.pop(0)
        assignment = Assignment(span.start, span.start, RangeSegment(span.end, span.start, span.start))
        self._assigned.append(assignment)
        return assignment

    def split(self, count: int, *, max_bytes: int | None = None) -> None:
        """Free ranges of busy workers until ``count`` are free, as far as ``min_split`` allows.

        The parts are sized so that all workers finish at the same time: a connection that already delivers keeps
        ``lead`` bytes more. ``max_bytes`` limits each freed range instead, taken from the end.
        """
        candidates: list[tuple[Assignment, int]] = []
        for assignment in self._assigned:
            segment = assignment.segment
            if segment.workers == 1 and assignment.position == segment.claimed:  # has, and had, no other worker
                begun = assignment.position > assignment.start
                candidates.append((assignment, assignment.remaining - self.lead * begun))
        parts = [1] * len(candidates)
        for _ in range(count - len(self._free)):
            index = max(range(len(parts)), key=lambda index: candidates[index][1] / parts[index], default=None)
            if index is None or candidates[index][1] < self.min_split * (parts[index] + 1):
                break
            parts[index] += 1
        for (assignment, size), number in zip(candidates, parts, strict=True):
            if number > 1:
                self._cut(assignment, number, size if max_bytes is None else min(size, max_bytes * number))

    def share(self, assignment: Assignment) -> Assignment | None:
        """Assign the unreceived rest of ``assignment`` to a second worker as well; None if nothing is left.

        Each byte is written by the worker that receives it first.
        """
        segment = assignment.segment
        if not assignment.remaining:
            return None
        segment.workers += 1
        shared = Assignment(segment.claimed, segment.claimed, segment)
        self._assigned.append(shared)
        return shared

    def claim(self, assignment: Assignment, received: int) -> ByteRange:
        """Return which of the next ``received`` bytes of a connection are to be written.

        These are fewer than were received if the end of the range was split off in the meantime, or if another worker
        of the same segment has received some of them before.
        """
        segment, assignment.position = assignment.segment, min(assignment.position + received, assignment.end)
        span = ByteRange(segment.claimed, max(segment.claimed, assignment.position))
        segment.claimed = span.end
        return span

    def wrote(self, assignment: Assignment, span: ByteRange) -> None:
        """Record that a claimed ``span`` is written."""
        segment = assignment.segment
        self.missing -= span.size
        insort(segment.out_of_order, span)
        while segment.out_of_order and segment.out_of_order[0].start <= segment.written:
            segment.written = max(segment.written, segment.out_of_order.pop(0).end)

    def release(self, assignment: Assignment) -> None:
        """End ``assignment``, and free what is not written unless another worker fetches it as well."""
        self._assigned.remove(assignment)
        segment = assignment.segment
        segment.workers -= 1
        if segment.workers or segment.written >= segment.end:
            return
        self.missing += sum(span.size for span in segment.out_of_order)
        insort(self._free, ByteRange(segment.written, segment.end))
        merged: list[ByteRange] = []
        for start, end in self._free:
            if merged and merged[-1].end == start:
                merged[-1] = ByteRange(merged[-1].start, end)
            else:
                merged.append(ByteRange(start, end))
        self._free = merged

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
