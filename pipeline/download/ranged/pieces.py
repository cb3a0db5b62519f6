"""Range arithmetic: which bytes of a file are still to be fetched, and which worker fetches them.

Every byte of the file is, at any time, exactly one of: written, held by one worker, or free. Nothing here knows of
threads, sockets or files; whoever shares an ``Allotment`` holds a lock around each call.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from config import KIB, MIB

#: Boundaries lie on multiples of this: pages of the disk stay with one writer.
ALIGNMENT = 64 * KIB
LARGEST_PIECE = 16 * MIB
_PIECES_PER_FILE = 64


class Span(NamedTuple):
    """Bytes ``start`` to before ``end``."""

    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


def piece_size(total: int, smallest: int = MIB) -> int:
    """Size of the pieces of a file of ``total`` bytes: a 64th of it, from ``smallest`` to 16 MiB, aligned."""
    return _align(min(max(-(-total // _PIECES_PER_FILE), smallest), max(LARGEST_PIECE, smallest)))


def missing(total: int, have: Iterable[Span]) -> Iterator[Span]:
    """What ``have``, in any order and overlapping or not, leaves of a file of ``total`` bytes. In order."""
    position = 0
    for start, end in sorted(span for span in have if span.size):
        if start > position:
            yield Span(position, min(start, total))
        position = max(position, end)
    if position < total:
        yield Span(position, total)


@dataclass(slots=True)
class Holding:
    """What one worker is at: written up to ``written``, taken from the connection up to ``position``."""

    start: int
    written: int
    position: int
    end: int

    @property
    def left(self) -> int:
        """Bytes that are not taken from the connection yet."""
        return self.end - self.position


class Allotment:
    """Hands out the ``free`` spans of a file to workers, and lets an idle worker steal from a busy one."""

    def __init__(self, free: Iterable[Span]) -> None:
        self._free = sorted(span for span in free if span.size > 0)
        self._held: dict[object, Holding] = {}
        self.missing = sum(span.size for span in self._free)
        """Bytes that are not written yet."""

    def low_water(self, total: int) -> int:
        """All before this is written."""
        return min((*(span.start for span in self._free), *(held.written for held in self._held.values()), total))

    def held_by(self, worker: object) -> Holding:
        """What ``worker`` is at. Raises KeyError if it holds nothing."""
        return self._held[worker]

    def take(self, worker: object, *, least: int = ALIGNMENT, lead: int = 0) -> Holding | None:
        """Give ``worker``, which holds nothing, something to do: what is free, or else the back of the largest
        remainder. None if there is nothing.

        What is stolen leaves both with equal amounts once the other one, if it is at work already, has fetched
        ``lead`` bytes more: as many as it will before the first of the stolen ones come. Neither part is smaller than
        ``least``.
        """
        span = self._free.pop(0) if self._free else self._steal(least, lead)
        if span is None:
            return None
        holding = self._held[worker] = Holding(span.start, span.start, span.start, span.end)
        return holding

    def cut(self, count: int, *, least: int = ALIGNMENT, lead: int = 0, most: int | None = None) -> None:
        """Free something for ``count`` workers that are to come at the same time, so that all are done at the same
        time, or ``most`` bytes for each. ``least`` and ``lead`` as for ``take``. What is already free counts.
        """
        parts = dict.fromkeys(self._held, 1)
        for _ in range(count - len(self._free)):
            worker = max(parts, key=lambda worker: self._held[worker].left / parts[worker], default=None)
            if worker is None or self._held[worker].left < least * (parts[worker] + 1):
                break
            parts[worker] += 1
        for worker, number in parts.items():
            self._cut(self._held[worker], number, lead, most)

    def _cut(self, victim: Holding, parts: int, lead: int, most: int | None) -> None:
        """Leave ``victim`` the first of ``parts`` parts of its remainder, and free the others one by one."""
        begun = victim.position > victim.start
        rest, end = victim.left - lead * begun, victim.end
        if parts == 1 or rest <= 0:
            return
        rest = rest if most is None else min(rest, most * parts)
        cuts = {_align(end - rest * number // parts) for number in range(1, parts)}
        starts = sorted(start for start in cuts if victim.position < start < end)
        for start, stop in pairwise((*starts, end)):
            victim.end = min(victim.end, start)
            insort(self._free, Span(start, stop))

    def can_take(self, least: int = ALIGNMENT, lead: int = 0) -> bool:
        """Whether ``take`` would find something."""
        return bool(self._free) or self._split(least, lead) is not None

    def claim(self, worker: object, received: int) -> Span:
        """Where the ``received`` bytes that follow in ``worker``'s connection go. Empty at the end of its span.

        They may be fewer than were received: another worker may have stolen the end meanwhile.
        """
        held = self._held[worker]
        span = Span(held.position, held.position + min(received, held.left))
        held.position = span.end
        return span

    def wrote(self, worker: object) -> None:
        """All that ``worker`` claimed is written."""
        held = self._held[worker]
        self.missing -= held.position - held.written
        held.written = held.position

    def extend(self, worker: object, limit: int) -> bool:
        """Let ``worker``, at its end, go on with what follows up to ``limit``, if that is free. Whether it may."""
        held = self._held[worker]
        for index, span in enumerate(self._free):
            if span.start == held.end < limit:
                held.end = min(span.end, limit)
                self._free[index : index + 1] = [Span(held.end, span.end)] if held.end < span.end else []
                return True
        return False

    def release(self, worker: object) -> None:
        """Take back from ``worker`` what it has not written."""
        held = self._held.pop(worker)
        if held.written < held.end:
            self._add(Span(held.written, held.end))

    def demand(self, span: Span) -> None:
        """What was written there is wrong: it is free again. Nobody may hold any of it."""
        self.missing += span.size
        self._add(span)

    def _add(self, span: Span) -> None:
        insort(self._free, span)
        merged: list[Span] = []
        for start, end in self._free:
            if merged and merged[-1].end == start:
                merged[-1] = Span(merged[-1].start, end)
            else:
                merged.append(Span(start, end))
        self._free = merged

    def _split(self, least: int, lead: int) -> tuple[Holding, int] | None:
        """The worker to steal from, and where its span then ends."""
        victim = max(self._held.values(), key=lambda held: held.left, default=None)
        if victim is None:
            return None
        begun = victim.position > victim.start
        middle = _align(victim.position + (victim.left + lead * begun) // 2)
        if middle - victim.position < least or victim.end - middle < least:
            return None
        return victim, middle

    def _steal(self, least: int, lead: int) -> Span | None:
        found = self._split(max(least, 1), lead)
        if found is None:
            return None
        victim, middle = found
        stolen = Span(middle, victim.end)
        victim.end = middle
        return stolen


def _align(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT
