"""A file that a ``SourceServer`` serves in ranges, correctly or not.

file = RangedFile(data)
server.add("/model", file)
file.rate = 2_000_000            # per connection, bytes/s
file.cut_after = 500_000         # every response ends after so many bytes
...
assert file.given == [(0, 500_000), (500_000, 1_000_000)]
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.support.source_server import DEADLINE, Exchange

Twist = Callable[[Exchange, int, int], bool]


@dataclass(eq=False)
class RangedFile:
    """A behaviour. Every attribute may change while it serves."""

    data: bytes
    etag: str | None = '"v1"'
    headers: Mapping[str, str] = field(default_factory=dict)
    block: int = 65536
    """Bytes per write."""
    rate: float | None = None
    """Bytes/s of each connection."""
    cut_after: int | None = None
    """Bytes after which each response ends."""
    max_connections: int | None = None
    """Further simultaneous connections are answered with ``refusal``."""
    refusal: Callable[[Exchange], None] = lambda exchange: exchange.respond(503)
    largest_part: int | None = None
    """Upper limit of a range with a requested end, bytes."""
    keeps: bool = True
    """Whether connections are kept alive for clients that ask for it."""
    ranges: bool = True
    """Whether ranges are served."""
    conditions: bool = True
    """Whether ``If-Match`` and ``If-Range`` are evaluated."""
    content_range: Callable[[int, int, int], str] = lambda start, end, total: f"bytes {start}-{end - 1}/{total}"
    twist: Twist | None = None
    """Called before each response with the range; returns True if it has responded."""
    on_block: Callable[[int], None] = lambda sent: None
    """Called before each block with the total of bytes sent."""
    busiest: int = field(default=0, init=False)
    """Largest number of simultaneous connections."""
    sent: int = field(default=0, init=False)
    _given: list[tuple[int, int]] = field(default_factory=list, init=False)
    _busy: int = field(default=0, init=False)
    _lock: threading.Condition = field(default_factory=threading.Condition, init=False)

    def __call__(self, exchange: Exchange) -> None:
        with self._admitted() as admitted:
            if not admitted:
                self.refusal(exchange)
                return
            self._answer(exchange)

    @property
    def given(self) -> list[tuple[int, int]]:
        """The sent ranges, in the order in which their responses began, once all have ended."""
        with self._lock:
            assert self._lock.wait_for(lambda: not self._busy, DEADLINE), "some responses do not end"
            return list(self._given)

    def wait_until_sent(self, amount: int) -> None:
        """Wait until ``amount`` bytes were sent in total. Raises AssertionError if they are not."""
        with self._lock:
            assert self._lock.wait_for(lambda: self.sent >= amount, DEADLINE), f"{self.sent} were sent"

    @contextmanager
    def _admitted(self) -> Iterator[bool]:
        with self._lock:
            self._busy += 1
            fits = self.max_connections is None or self._busy <= self.max_connections
            if fits:
                self.busiest = max(self.busiest, self._busy)
        try:
            yield fits
        finally:
            with self._lock:
                self._busy -= 1
                self._lock.notify_all()

    def _answer(self, exchange: Exchange) -> None:
        headers_received = exchange.request.headers
        if self.conditions and headers_received.get("if-match", self.etag) != self.etag:
            exchange.respond(412)
            return
        wanted = re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", headers_received.get("range", ""))
        stale = self.conditions and headers_received.get("if-range", self.etag) != self.etag
        partial = wanted is not None and self.ranges and not stale
        start = int(wanted[1]) if wanted and partial else 0
        end = min(int(wanted[2]) + 1, len(self.data)) if wanted and partial and wanted[2] else len(self.data)
        if wanted and partial and wanted[2] and self.largest_part:
            end = min(end, start + self.largest_part)
        if self.twist and self.twist(exchange, start, end):
            return
        if start >= len(self.data):
            exchange.respond(416, headers={"Content-Range": f"bytes */{len(self.data)}"})
            return
        headers = {"Content-Length": str(end - start), **({"ETag": self.etag} if self.etag else {}), **self.headers}
        if partial:
            headers["Content-Range"] = self.content_range(start, end, len(self.data))
        exchange.head(206 if partial else 200, headers)
        self._send(exchange, start, end)

    def _send(self, exchange: Exchange, start: int, end: int) -> None:
        last = min(end, start + self.cut_after) if self.cut_after is not None else end
        position, began = start, time.monotonic()
        with self._lock:
            number = len(self._given)
            self._given.append((start, start))
        try:
            while position < last:
                block = min(self.block, last - position)
                self.on_block(self.sent)
                if not exchange.pause(self._delay(began, position - start)):
                    return
                # The present content, as from a server whose file is overwritten while it reads.
                exchange.send(self.data[position : position + block])
                position += block
                with self._lock:
                    self.sent += block
                    self._lock.notify_all()
            exchange.keep_open = self.keeps and exchange.wants_more and last == end
        finally:
            with self._lock:
                self._given[number] = (start, position)

    def _delay(self, began: float, sent: int) -> float:
        return max(began + sent / self.rate - time.monotonic(), 0.0) if self.rate else 0.0
