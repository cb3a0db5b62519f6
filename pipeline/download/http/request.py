"""One HTTP request with its redirects, and the body of the response."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import requests

from config import MIB
from pipeline.download.http import response as http_response
from pipeline.download.http.errors import http_errors
from pipeline.download.http.session import ConnectionOptions, GuardedSession, guarded_session
from pipeline.download.http.watchdog import Branch, Watchdog
from pipeline.download.sources import Source
from pipeline.download.ssrf.url_guard import ForbiddenUrlError, UrlGuard
from pipeline.download.ssrf.url_parser import ParsedUrl, join_url
from pipeline.download.types import DownloadLimits
from pipeline.errors import CancelledError, ErrorCode, PermanentError

if TYPE_CHECKING:
    from pipeline.download.http.rate_limit import RateLimit

MAX_REDIRECTS = 5

#: At this rate (bytes/s), measured over ``_FAST_AFTER`` bytes, a read waits for ``_FAST_READ`` bytes, which arrive in
#: 16 ms. If the source then almost stops, those bytes have to arrive within the stall timeout.
_FAST = 64 * MIB
_FAST_AFTER = 4 * MIB
_FAST_READ = MIB

#: Compressed responses are not accepted: a few bytes can expand into very many.
_HEADERS = {"User-Agent": "uvr-api", "Accept": "*/*", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class HttpClient:
    """Makes the requests of one download. Guard, watchdog and rate limit apply to each of them."""

    guard: UrlGuard
    limits: DownloadLimits
    connection_options: ConnectionOptions
    rate: RateLimit | None
    watchdog: Watchdog

    def prepare(
        self, source: Source, on_start: Callable[[Branch], None] = lambda _: None, *, keep_alive: bool = False
    ) -> PendingRequest:
        """Return a request to ``source`` that is not sent yet.

        ``on_start`` receives the watchdog of the request, which can cancel it. ``keep_alive``: the connection may serve
        another request afterwards, see ``ResponseStream.next_request``.
        """
        with ExitStack() as stack:
            watchdog = stack.enter_context(self.watchdog.branch(source.subject))
            on_start(watchdog)
            session = stack.enter_context(
                guarded_session(
                    self.guard,
                    connect_timeout=self.limits.connect_timeout,
                    read_timeout=None,  # the watchdog interrupts reads, and a timeout costs a system call for each
                    watchdog=watchdog,
                    connection_options=self.connection_options,
                )
            )
            return PendingRequest(source, watchdog, session, self.rate, stack.pop_all(), keep_alive=keep_alive)


@dataclass
class PendingRequest:
    """A request that is not sent yet. A context manager: leaving it closes the connection unless ``send`` used it."""

    source: Source
    watchdog: Branch
    session: GuardedSession
    rate: RateLimit | None
    stack: ExitStack
    keep_alive: bool
    connected: bool = False
    """The connection is open already, so the server may have closed it since."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, unless a ``ResponseStream`` owns it."""
        self.stack.close()

    def connect(self) -> None:
        """Connect in advance. Raises the same errors as ``download``."""
        with http_errors(self.source.subject, self.watchdog):
            self.session.connect_ahead(self.source.location.host, self.source.location.port)
        self.connected = True

    def send(self, headers: Mapping[str, str]) -> ResponseStream:
        """Send the request once and return the response at the end of its redirects, with the body unread.

        Raises the same errors as ``download``.
        """
        if self.connected:
            self.watchdog.expect()
        headers = {**_HEADERS, "Connection": "keep-alive" if self.keep_alive else "close", **headers}
        url = self.source.location
        for _ in range(MAX_REDIRECTS + 1):
            with http_errors(self.source.subject, self.watchdog), ExitStack() as stack:
                response = stack.enter_context(self.session.get(url.url, headers=headers, stream=True))
                self.watchdog.rest()
                self.watchdog.raise_if_fired()
                stack.pop_all()
            location = http_response.redirect_location(response)
            if location is None:
                self.stack.callback(response.close)
                owned = PendingRequest(
                    self.source, self.watchdog, self.session, self.rate, self.stack.pop_all(), self.keep_alive
                )
                return ResponseStream(owned, url, response)
            response.close()
            url = self._redirect_target(url, location)
        raise PermanentError(
            f"{self.source.subject} redirects more than {MAX_REDIRECTS} times", code=ErrorCode.SOURCE_REFUSED
        )

    def _redirect_target(self, url: ParsedUrl, location: str) -> ParsedUrl:
        try:
            target = join_url(url, location)
        except PermanentError:
            # The client's URL was valid; its redirect is not, and counts as forbidden.
            raise ForbiddenUrlError("the redirect has no valid URL") from None
        if url.scheme == "https" and target.scheme == "http":
            raise PermanentError(f"{self.source.subject} redirects from https to http", code=ErrorCode.SOURCE_REFUSED)
        return target


class ResponseStream:
    """A response whose body is being read. A context manager."""

    def __init__(self, request: PendingRequest, location: ParsedUrl, response: requests.Response) -> None:
        self._request = request
        self._rate = request.rate
        self.watchdog = request.watchdog
        self.source = request.source
        self.location = location
        """The URL at the end of the redirects."""
        self.response = response
        self._is_fast = False
        self._measured_from = time.monotonic()
        self._measured_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._request.close()

    def next_request(self) -> PendingRequest | None:
        """Return another request over the same connection, if it is kept alive and the body is read; this stream ends.

        A connection that the server has closed, or on which it sends more than it announced, is not used again: the
        next request then opens a new one.
        """
        request = self._request
        if not request.keep_alive or self.response.raw.length_remaining != 0:
            return None
        self.response.raw.drain_conn()  # reads nothing, and returns the connection to the session
        return PendingRequest(
            request.source,
            request.watchdog,
            request.session,
            request.rate,
            request.stack.pop_all(),
            True,
            connected=True,
        )

    def read(self, max_bytes: int) -> bytes:
        """Return up to ``max_bytes`` received bytes; empty at the end. Waits for the rate limit."""
        rate = self._rate
        size = max_bytes if rate is None else rate.read_size(max_bytes)
        self.watchdog.expect()
        with http_errors(self.source.subject, self.watchdog):
            # read1 returns what has arrived; read waits for all of it. Both raise at a premature end.
            raw = self.response.raw
            data: bytes
            if self._is_fast:
                data = raw.read(min(size, _FAST_READ), decode_content=False)
            else:
                data = raw.read1(size, decode_content=False)
        # Time spent on the local disk, rate limits and listeners does not count as a stall of the source.
        self.watchdog.rest()
        self._measure(len(data))
        if rate is not None and data:
            try:
                rate.take(self.location.host, len(data), self.watchdog.ended, self.watchdog.deadline)
            except CancelledError:
                self.watchdog.raise_if_fired()
                raise
        return data

    def _measure(self, amount: int) -> None:
        """Decide whether waiting for whole chunks costs less than many small reads.

        It takes ``_FAST_AFTER`` bytes to become fast, and a single slow read to become slow again.
        """
        self._measured_bytes += amount
        if self._is_fast or self._measured_bytes >= _FAST_AFTER:
            now = time.monotonic()
            self._is_fast = self._measured_bytes >= (now - self._measured_from) * _FAST
            self._measured_from, self._measured_bytes = now, 0

    def chunks(self, length: int | None, max_bytes: int) -> Iterator[bytes]:
        """Yield the body as it arrives, but no more than ``length`` bytes if the length is known."""
        remaining = length
        while remaining is None or remaining > 0:
            chunk = self.read(max_bytes if remaining is None else min(max_bytes, remaining))
            if not chunk:
                return
            yield chunk
            remaining = None if remaining is None else remaining - len(chunk)
