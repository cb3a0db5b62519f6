"""Range arithmetic: which bytes of a file are still to be fetched, and which worker fetches them.

Every byte of the file is, at any time, exactly one of: written, held by one worker, or free. Nothing here knows of
threads, sockets or files; whoever shares an ``RangeAllocator`` holds a lock around each call.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from config import KIB, MIB

#: Boundaries lie on multiples of this: pages of the disk stay with one writer.
ALIGNMENT = 64 * KIB
LARGEST_PIECE = 16 * MIB
_PIECES_PER_FILE = 64


class ByteRange(NamedTuple):
    """Bytes ``start`` to before ``end``."""

    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


def piece_size(total: int, smallest: int = MIB) -> int:
    """Size of the pieces of a file of ``total`` bytes: a 64th of it, from ``smallest`` to 16 MiB, aligned."""
    return _align(min(max(-(-total // _PIECES_PER_FILE), smallest), max(LARGEST_PIECE, smallest)))


def missing_ranges(total: int, have: Iterable[ByteRange]) -> Iterator[ByteRange]:
    """What ``have``, in any order and overlapping or not, leaves of a file of ``total`` bytes. In order."""
    position = 0
    for start, end in sorted(span for span in have if span.size):
        if start > position:
            yield ByteRange(position, min(start, total))
        position = max(position, end)
    if position < total:
        yield ByteRange(position, total)


@dataclass(slots=True)
class Stretch:
    """A part of the file that one worker fetches, or several at the same time."""

    end: int
    claimed: int
    """All before this has come, and is some worker's to write."""
    written: int
    """All before this is written."""
    ahead: list[ByteRange] = field(default_factory=list)
    """Written beyond that, while another worker still writes what lies between."""
    workers: int = 1


@dataclass(slots=True)
class Assignment:
    """What one worker is at: its connection has got from ``start`` to ``position``."""

    start: int
    position: int
    stretch: Stretch

    @property
    def end(self) -> int:
        return self.stretch.end

    @property
    def written(self) -> int:
        """Up to where it is written, by whomever."""
        return self.stretch.written

    @property
    def left(self) -> int:
        """Bytes that are not taken from the connection yet; 0 once others have brought them."""
        return self.end - self.position if self.stretch.claimed < self.end else 0


class RangeAllocator:
    """Hands out the ``free`` spans of a file to workers, and lets an idle worker steal from a busy one or join it."""

    def __init__(self, free: Iterable[ByteRange]) -> None:
        self._free = sorted(span for span in free if span.size > 0)
        self._held: dict[object, Assignment] = {}
        self.missing = sum(span.size for span in self._free)
        """Bytes that are not written yet."""

    def low_water(self, total: int) -> int:
        """All before this is written."""
        return min((*(span.start for span in self._free), *(held.written for held in self._held.values()), total))

    def held_by(self, worker: object) -> Assignment:
        """What ``worker`` is at. Raises KeyError if it holds nothing."""
        return self._held[worker]

    def take(self, worker: object, *, least: int = ALIGNMENT, lead: int = 0) -> Assignment | None:
        """Give ``worker``, which holds nothing, something to do: what is free, or else the back of the largest
        remainder. None if there is nothing.

        What is stolen leaves both with equal amounts once the other one, if it is at work already, has fetched
        ``lead`` bytes more: as many as it will before the first of the stolen ones come. Neither part is smaller than
        ``least``.
        """
        span = self._free.pop(0) if self._free else self._steal(least, lead)
        if span is None:
            return None
        stretch = Stretch(span.end, span.start, span.start)
        holding = self._held[worker] = Assignment(span.start, span.start, stretch)
        return holding

    def joinable(self, worker: object, most: int) -> int:
        """Bytes that another one may fetch beside ``worker``; 0 if ``most`` of them are at it already."""
        held = self._held.get(worker)
        return held.left if held and held.stretch.workers < most else 0

    def join(self, worker: object, rival: object) -> Assignment | None:
        """Let ``worker``, which holds nothing, fetch what has not come to ``rival`` yet, which goes on with it: each
        byte is written by the one that it comes to first. None if that is nothing.
        """
        held = self._held.get(rival)
        if held is None or not held.left:
            return None
        held.stretch.workers += 1
        holding = self._held[worker] = Assignment(held.stretch.claimed, held.stretch.claimed, held.stretch)
        return holding

    def cut(self, count: int, *, least: int = ALIGNMENT, lead: int = 0, most: int | None = None) -> None:
        """Free something for ``count`` workers that are to come at the same time, so that all are done at the same
        time, or ``most`` bytes for each. ``least`` and ``lead`` as for ``take``. What is already free counts.
        """
        alone = self._alone()
        parts = [1] * len(alone)
        for _ in range(count - len(self._free)):
            index = max(range(len(alone)), key=lambda index: alone[index].left / parts[index], default=None)
            if index is None or alone[index].left < least * (parts[index] + 1):
                break
            parts[index] += 1
        for held, number in zip(alone, parts, strict=True):
            self._cut(held, number, lead, most)

    def _cut(self, victim: Assignment, parts: int, lead: int, most: int | None) -> None:
        """Leave ``victim`` the first of ``parts`` parts of its remainder, and free the others one by one."""
        begun = victim.position > victim.start
        rest, end = victim.left - lead * begun, victim.end
        if parts == 1 or rest <= 0:
            return
        rest = rest if most is None else min(rest, most * parts)
        cuts = {_align(end - rest * number // parts) for number in range(1, parts)}
        starts = sorted(start for start in cuts if victim.position < start < end)
        for start, stop in pairwise((*starts, end)):
            victim.stretch.end = min(victim.end, start)
            insort(self._free, ByteRange(start, stop))

    def can_take(self, least: int = ALIGNMENT, lead: int = 0) -> bool:
        """Whether ``take`` would find something."""
        return bool(self._free) or self._split(least, lead) is not None

    def claim(self, worker: object, received: int) -> ByteRange:
        """Where the ``received`` bytes that follow in ``worker``'s connection go, as far as they are wanted.

        They may be fewer than were received: another worker may have stolen the end meanwhile, or one that fetches the
        same may have had the beginning, or all of them, before.
        """
        held = self._held[worker]
        stretch, held.position = held.stretch, min(held.position + received, held.end)
        span = ByteRange(stretch.claimed, max(stretch.claimed, held.position))
        stretch.claimed = span.end
        return span

    def wrote(self, worker: object, span: ByteRange) -> None:
        """``span``, which ``worker`` claimed, is written."""
        stretch = self._held[worker].stretch
        self.missing -= span.size
        insort(stretch.ahead, span)
        while stretch.ahead and stretch.ahead[0].start <= stretch.written:
            stretch.written = max(stretch.written, stretch.ahead.pop(0).end)

    def extend(self, worker: object, limit: int) -> bool:
        """Let ``worker``, at its end, go on with what follows up to ``limit``, if that is free. Whether it may."""
        held = self._held[worker]
        if held.position < held.end or held.stretch.workers > 1:
            return False
        for index, span in enumerate(self._free):
            if span.start == held.end < limit:
                held.stretch.end = min(span.end, limit)
                self._free[index : index + 1] = [ByteRange(held.end, span.end)] if held.end < span.end else []
                return True
        return False

    def release(self, worker: object) -> None:
        """Take back from ``worker`` what it has not written, unless somebody else is at it."""
        stretch = self._held.pop(worker).stretch
        stretch.workers -= 1
        if not stretch.workers and stretch.written < stretch.end:
            self.missing += sum(span.size for span in stretch.ahead)
            self._add(ByteRange(stretch.written, stretch.end))

    def demand(self, span: ByteRange) -> None:
        """What was written there is wrong: it is free again. Nobody may hold any of it."""
        self.missing += span.size
        self._add(span)

    def _add(self, span: ByteRange) -> None:
        insort(self._free, span)
        merged: list[ByteRange] = []
        for start, end in self._free:
            if merged and merged[-1].end == start:
                merged[-1] = ByteRange(merged[-1].start, end)
            else:
                merged.append(ByteRange(start, end))
        self._free = merged

    def _alone(self) -> list[Assignment]:
        """Of those workers that have a stretch to themselves, and have had."""
        holdings = self._held.values()
        return [held for held in holdings if held.stretch.workers == 1 and held.position == held.stretch.claimed]

    def _split(self, least: int, lead: int) -> tuple[Assignment, int] | None:
        """The worker to steal from, and where its span then ends."""
        victim = max(self._alone(), key=lambda held: held.left, default=None)
        if victim is None:
            return None
        begun = victim.position > victim.start
        middle = _align(victim.position + (victim.left + lead * begun) // 2)
        if middle - victim.position < least or victim.end - middle < least:
            return None
        return victim, middle

    def _steal(self, least: int, lead: int) -> ByteRange | None:
        found = self._split(max(least, 1), lead)
        if found is None:
            return None
        victim, middle = found
        stolen = ByteRange(middle, victim.end)
        victim.stretch.end = middle
        return stolen


def _align(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT
