"""Workers: threads that each ask for one range after the other and write it to its place."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from config import KIB, MIB
from pipeline.download.http.request import HttpClient, PendingRequest, ResponseStream
from pipeline.download.http.response import source_incomplete
from pipeline.download.http.watchdog import Branch, Cancellation
from pipeline.download.parallel.journal import Entry
from pipeline.download.parallel.range_allocator import ALIGNMENT, Assignment, ByteRange, RangeAllocator
from pipeline.download.parallel.range_request import ask
from pipeline.download.part_file import ScatteredFile
from pipeline.download.sources import Source

#: Bytes that the reads of all workers together may have in memory.
_READ_BYTES: Final = 4 * MIB
_SMALLEST_READ: Final = 64 * KIB
#: Round trips after which what is silent has lost more than one packet.
_SILENT_ROUNDS: Final = 1.25


@dataclass
class Crew:
    """What the workers of one file share. Everything that changes is guarded by ``changed``."""

    line: HttpClient
    file: ScatteredFile
    allotment: RangeAllocator
    total: int
    chunk_bytes: int
    piece_bytes: int | None
    """Size of the pieces to be entered in a journal; None: there is none."""
    verified: bool
    """Whether the hash of the whole file will be checked."""
    changed: threading.Condition = field(default_factory=threading.Condition)
    least: int = ALIGNMENT
    """Smaller remainders are not worth stealing."""
    lead: int = 0
    """Bytes that come over a connection in the time from asking to being answered over a new one."""
    received: int = 0
    last_at: float = 0.0
    """When the last bytes came, on the monotonic clock."""
    twice: int = 0
    """Bytes that came and had come before."""
    requests: int = 1
    keep: bool = False
    """Whether connections are used for one range after the other."""
    active: list[RangeWorker] = field(default_factory=list)
    spare: list[RangeWorker] = field(default_factory=list)
    """Connected, and told to work not yet, or not at the moment."""
    ended: list[RangeWorker] = field(default_factory=list)
    """Not looked at yet."""
    entries: list[Entry] = field(default_factory=list)
    """Written, not in the journal yet."""
    authors: list[tuple[ByteRange, Source]] = field(default_factory=list)
    """Who gave what."""

    def read_size(self) -> int:
        """How many bytes a worker reads at a time: all of them together must not have too much in memory."""
        return min(self.chunk_bytes, max(_READ_BYTES // max(len(self.active), 1), _SMALLEST_READ))

    def note(self, entries: list[Entry]) -> None:
        """Have ``entries`` put in the journal."""
        if entries:
            with self.changed:
                self.entries += entries
                self.changed.notify()


class RangeWorker(threading.Thread):
    """Works until there is nothing to take, it is dismissed, or something fails; which of them, ``error`` tells.

    A spare one connects, and then waits to be called. One whose connection can be used again waits to be called again
    when there is nothing to take.
    """

    def __init__(
        self, crew: Crew, source: Source, first: tuple[ResponseStream, int] | None = None, *, spare: bool = False
    ) -> None:
        super().__init__(name="download-worker", daemon=True)
        self.source = source
        self.error: BaseException | None = None
        self.retired = False
        self.called = not spare
        """Whether it was ever told to work."""
        self.progress = 0
        """Bytes of the last answer."""
        self.delivering = False
        """Whether bytes have come."""
        self.quiet_since = time.monotonic()
        """When it was begun, or asked for a range, or the last bytes came."""
        self.joined_at = 0.0
        """When another one was last told to fetch the same."""
        self._crew = crew
        self._first = first
        self._dismissal = Cancellation(first[0].watch if first else None)
        self._approach: PendingRequest | None = None
        self._wake = threading.Event()
        self._rival: RangeWorker | None = None
        self._answered_at = 0.0
        self._in_time_at = 0.0

    @property
    def dismissed(self) -> bool:
        """Whether it was told to stop."""
        return self._dismissal.given

    def call(self, rival: RangeWorker | None = None) -> None:
        """Begin, or begin again, if this is a spare one; with what ``rival`` is at, if that is given."""
        self.called = True
        self._rival = rival
        self.quiet_since = time.monotonic()
        self._wake.set()

    def retire(self) -> None:
        """Take nothing more."""
        self.retired = True

    def dismiss(self) -> None:
        """Stop, at once."""
        self._dismissal.give()
        self._wake.set()

    def is_late(self, left: int, now: float, round_trip: float) -> bool:
        """Whether asking somebody else for the ``left`` bytes as well seems to be quicker than waiting for them: by the
        pace of its answer, or because it was not late a round trip ago, or it is silent for longer than it takes to
        ask, or to send again what was lost. Not again before those who were asked could have answered. Remembers since
        when it was not late.
        """
        if now - self.joined_at < round_trip:
            return False
        if now - self.quiet_since > round_trip * _SILENT_ROUNDS:
            return True
        needed = left * (now - self._answered_at) / self.progress if self.progress else round_trip
        self._in_time_at = self._in_time_at or now
        return needed > round_trip or now - self._in_time_at > round_trip * _SILENT_ROUNDS

    def _watched(self, watch: Branch) -> None:
        self.quiet_since = time.monotonic()
        self._dismissal.watch(watch)

    def run(self) -> None:
        """Work."""
        try:
            if not self.called:
                self._approach = self._crew.line.approach(self.source, self._watched, keep=self._crew.keep)
                self._approach.connect()
                self._wake.wait()
            self._work()
            while self._stand_by():
                self._work()
        except BaseException as error:  # noqa: BLE001 - the boundary of the thread: whoever started it decides
            self.error = error
        if self._first is not None:
            self._first[0].close()
        if self._approach is not None:
            self._approach.close()
        with self._crew.changed:
            (self._crew.active if self in self._crew.active else self._crew.spare).remove(self)
            self._crew.ended.append(self)
            self._crew.changed.notify()

    def _stand_by(self) -> bool:
        """Wait to be called again, if there is a connection for it. Whether it was."""
        if self._approach is None or self.dismissed or self.retired:
            return False
        self._wake.clear()
        with self._crew.changed:
            self.delivering = False
            self._crew.active.remove(self)
            self._crew.spare.append(self)
            self._crew.changed.notify()
        if not self.dismissed:  # before the clearing; since then, it would be awake
            self._wake.wait()
        return not self.dismissed

    def _work(self) -> None:
        while not (self.dismissed or self.retired):
            with self._crew.changed:
                holding = self._take()
            if holding is None:
                return
            try:
                self._fetch(holding)
            finally:
                with self._crew.changed:
                    self._crew.authors.append((ByteRange(holding.start, holding.position), self.source))
                    self._crew.allotment.release(self)

    def _take(self) -> Assignment | None:
        allotment, rival = self._crew.allotment, self._rival
        self._rival = None
        if rival is not None:
            return allotment.join(self, rival)
        return allotment.take(self, least=self._crew.least, lead=self._crew.lead)

    def _fetch(self, holding: Assignment) -> None:
        self.progress, self._in_time_at = 0, 0.0
        exchange, end = self._open(holding)
        with exchange:
            tally = Tally(holding.start, self._crew.piece_bytes, _etag(self.source))
            try:
                self._read(exchange, holding, end, tally)
            finally:
                self._crew.note(list(tally.rest()))
            self._approach = exchange.again()

    def _open(self, holding: Assignment) -> tuple[ResponseStream, int]:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        span = ByteRange(holding.start, holding.end)
        self._crew.requests += 1  # whether there was more than one is all that counts
        crew = self._crew
        if crew.keep and self._approach is None:
            self._approach = crew.line.approach(self.source, self._watched, keep=True)
        answer = ask(
            crew.line,
            self.source,
            span,
            crew.total,
            verified=crew.verified,
            on_start=self._watched,
            approach=self._approach,
        )
        self._approach = None
        return answer

    def _read(self, exchange: ResponseStream, holding: Assignment, end: int, tally: Tally) -> None:
        crew = self._crew
        while not self.dismissed and self._goes_on(holding, end):
            data = exchange.read(min(crew.read_size(), max(holding.left, 1)))
            if not data:
                raise source_incomplete(self.source.subject)
            self.quiet_since, self.delivering = time.monotonic(), True
            self._answered_at = self._answered_at if self.progress else self.quiet_since
            self.progress += len(data)
            with crew.changed:
                begin = holding.position
                span = crew.allotment.claim(self, len(data))
                crew.twice += len(data) - span.size
            if not span.size:
                continue
            view = memoryview(data)[span.start - begin : span.end - begin]
            crew.file.write(span.start, view)
            crew.note(list(tally.add(span.start, view)))
            with crew.changed:
                crew.allotment.wrote(self, span)
                crew.received += span.size
                crew.last_at = max(crew.last_at, self.quiet_since)

    def _goes_on(self, holding: Assignment, end: int) -> bool:
        if holding.position >= end:
            return False  # the server gave less than was asked for, as it may: ask for the rest
        if holding.left:
            return True
        with self._crew.changed:
            return self._crew.allotment.extend(self, end)


class Tally:
    """Turns what is written, in ascending order, into journal entries, one for each piece or part of one."""

    def __init__(self, start: int, piece_bytes: int | None, etag: str | None) -> None:
        self._start = self._position = start
        self._piece_bytes = piece_bytes
        self._etag = etag
        self._crc = 0

    def add(self, position: int, data: memoryview) -> Iterator[Entry]:
        """``data`` is written at ``position``."""
        if self._piece_bytes is None:
            return
        if position != self._position:
            yield from self.rest()
            self._start = self._position = position
        while data:
            boundary = (self._position // self._piece_bytes + 1) * self._piece_bytes
            now, data = data[: boundary - self._position], data[boundary - self._position :]
            self._crc = zlib.crc32(now, self._crc)
            self._position += len(now)
            if self._position == boundary:
                yield from self.rest()

    def rest(self) -> Iterator[Entry]:
        """That was all for now."""
        if self._position > self._start:
            yield Entry(ByteRange(self._start, self._position), self._etag, self._crc)
        self._start, self._crc = self._position, 0


def _etag(source: Source) -> str | None:
    return source.validator.etag if source.validator else None
