"""Workers: threads that each ask for one range after the other and write it to its place."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.download.exchange import Exchange, Line
from pipeline.download.partial import ScatteredFile
from pipeline.download.ranged.journal import Entry
from pipeline.download.ranged.pieces import ALIGNMENT, Allotment, Holding, Span
from pipeline.download.ranged.ranges import ask
from pipeline.download.response import incomplete
from pipeline.download.sources import Source
from pipeline.download.wire.watchdog import Branch


@dataclass
class Crew:
    """What the workers of one file share. Everything that changes is guarded by ``changed``."""

    line: Line
    file: ScatteredFile
    allotment: Allotment
    total: int
    chunk_bytes: int
    piece_bytes: int | None
    """Size of the pieces to be entered in a journal; None: there is none."""
    verified: bool
    """Whether the hash of the whole file will be checked."""
    changed: threading.Condition = field(default_factory=threading.Condition)
    least: int = ALIGNMENT
    """Smaller remainders are not worth stealing."""
    received: int = 0
    requests: int = 1
    active: list[Worker] = field(default_factory=list)
    ended: list[Worker] = field(default_factory=list)
    """Not looked at yet."""
    entries: list[Entry] = field(default_factory=list)
    """Written, not in the journal yet."""
    authors: list[tuple[Span, Source]] = field(default_factory=list)
    """Who gave what."""

    def note(self, entries: list[Entry]) -> None:
        """Have ``entries`` put in the journal."""
        if entries:
            with self.changed:
                self.entries += entries
                self.changed.notify()


class Worker(threading.Thread):
    """Works until there is nothing to take, it is dismissed, or something fails; which of them, ``error`` tells."""

    def __init__(self, crew: Crew, source: Source, first: tuple[Exchange, int] | None = None) -> None:
        super().__init__(name="download-worker", daemon=True)
        self.source = source
        self.error: BaseException | None = None
        self.dismissed = False
        self.progress = 0
        """Bytes of the last answer."""
        self.delivering = False
        """Whether bytes have come."""
        self.quiet_since = time.monotonic()
        """When it was begun, or asked for a range, or the last bytes came."""
        self._crew = crew
        self._first = first
        self._watch = first[0].watch if first else None

    def dismiss(self) -> None:
        """Stop, at once."""
        self.dismissed = True
        if self._watch is not None:
            self._watch.give_up()

    def _watched(self, watch: Branch) -> None:
        self.quiet_since = time.monotonic()
        self._watch = watch
        if self.dismissed:  # meanwhile: of the two threads, the one that comes second sees what the first one did
            watch.give_up()

    def run(self) -> None:
        """Work."""
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - the boundary of the thread: whoever started it decides
            self.error = error
        if self._first is not None:
            self._first[0].close()
        with self._crew.changed:
            self._crew.active.remove(self)
            self._crew.ended.append(self)
            self._crew.changed.notify()

    def _work(self) -> None:
        while not self.dismissed:
            with self._crew.changed:
                holding = self._crew.allotment.take(self, least=self._crew.least)
            if holding is None:
                return
            try:
                self._fetch(holding)
            finally:
                with self._crew.changed:
                    self._crew.authors.append((Span(holding.start, holding.written), self.source))
                    self._crew.allotment.release(self)

    def _fetch(self, holding: Holding) -> None:
        self.progress = 0
        exchange, end = self._open(holding)
        with exchange:
            tally = Tally(holding.start, self._crew.piece_bytes, _etag(self.source))
            try:
                self._read(exchange, holding, end, tally)
            finally:
                self._crew.note(list(tally.rest()))

    def _open(self, holding: Holding) -> tuple[Exchange, int]:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        span = Span(holding.start, holding.end)
        self._crew.requests += 1  # whether there was more than one is all that counts
        crew = self._crew
        return ask(crew.line, self.source, span, crew.total, verified=crew.verified, on_start=self._watched)

    def _read(self, exchange: Exchange, holding: Holding, end: int, tally: Tally) -> None:
        crew = self._crew
        while not self.dismissed and self._goes_on(holding, end):
            data = exchange.read(min(crew.chunk_bytes, max(holding.left, 1)))
            if not data:
                raise incomplete(self.source.subject)
            self.quiet_since, self.delivering = time.monotonic(), True
            with crew.changed:
                span = crew.allotment.claim(self, len(data))
            view = memoryview(data)[: span.size]
            crew.file.write(span.start, view)
            crew.note(list(tally.add(view)))
            with crew.changed:
                crew.allotment.wrote(self)
                crew.received += span.size
            self.progress += span.size

    def _goes_on(self, holding: Holding, end: int) -> bool:
        if holding.position >= end:
            return False  # the server gave less than was asked for, as it may: ask for the rest
        if holding.left:
            return True
        with self._crew.changed:
            return self._crew.allotment.extend(self, end)


class Tally:
    """Turns bytes that are written one after the other into journal entries, one for each piece or part of one."""

    def __init__(self, start: int, piece_bytes: int | None, etag: str | None) -> None:
        self._start = self._position = start
        self._piece_bytes = piece_bytes
        self._etag = etag
        self._crc = 0

    def add(self, data: memoryview) -> Iterator[Entry]:
        """``data`` is written."""
        if self._piece_bytes is None:
            return
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
            yield Entry(Span(self._start, self._position), self._etag, self._crc)
        self._start, self._crc = self._position, 0


def _etag(source: Source) -> str | None:
    return source.validator.etag if source.validator else None
