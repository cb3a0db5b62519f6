"""One request, its redirects and the body of its answer, with the guard, the watchdog and the rate limit in the way."""

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
from pipeline.download.ssrf.url_guard import UrlGuard, forbidden
from pipeline.download.ssrf.url_parser import ParsedUrl, join_url
from pipeline.download.types import DownloadLimits
from pipeline.errors import CancelledError, ErrorCode, PermanentError

if TYPE_CHECKING:
    from pipeline.download.http.rate_limit import RateLimit

MAX_REDIRECTS = 5

#: From so many bytes/s on, over so many bytes, it is waited for so many at a time, which are there within 16 ms. If the
#: line then all but stops, they are what has to come before it is taken to have stopped.
_FAST = 64 * MIB
_FAST_AFTER = 4 * MIB
_FAST_READ = MIB

#: Compressed answers are not wanted: a few bytes can become very many.
_HEADERS = {"User-Agent": "uvr-api", "Accept": "*/*", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class HttpClient:
    """How one download reaches its sources."""

    guard: UrlGuard
    limits: DownloadLimits
    connection_options: ConnectionOptions
    rate: RateLimit | None
    watchdog: Watchdog

    def open(
        self, source: Source, headers: Mapping[str, str], on_start: Callable[[Branch], None] = lambda _: None
    ) -> ResponseStream:
        """The answer at the end of the redirects, its body unread. To be closed.

        ``on_start`` is given, before anything else, what ends the wait. Raises the same as ``download``.
        """
        with self.approach(source, on_start) as approach:
            return approach.open(headers)

    def approach(
        self, source: Source, on_start: Callable[[Branch], None] = lambda _: None, *, keep: bool = False
    ) -> PendingRequest:
        """A request to ``source`` that is not made yet. ``on_start`` as for ``open``.

        ``keep``: the connection may be used for another one afterwards; see ``ResponseStream.again``.
        """
        with ExitStack() as stack:
            watch = stack.enter_context(self.watchdog.branch(source.subject))
            on_start(watch)
            session = stack.enter_context(
                guarded_session(
                    self.guard,
                    connect_timeout=self.limits.connect_timeout,
                    read_timeout=self.limits.total_timeout,  # the watchdog is stricter
                    watchdog=watch,
                    connection_options=self.connection_options,
                )
            )
            return PendingRequest(_Way(self, source, watch, session, keep), stack.pop_all())


@dataclass(frozen=True, slots=True)
class _Way:
    """What a request goes over, and maybe others after it."""

    line: HttpClient
    source: Source
    watch: Branch
    session: GuardedSession
    keep: bool


class PendingRequest:
    """A request before it is made. A context manager: what ``open`` has not handed on is closed at its end."""

    def __init__(self, way: _Way, stack: ExitStack, *, warm: bool = False) -> None:
        self._way = way
        self._stack = stack
        self.warm = warm
        """Whether the connection has been used before, so that the other side may have closed it meanwhile."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up, unless that is for an Exchange to do."""
        self._stack.close()

    def connect(self) -> None:
        """Connect already, so that ``open`` need not. Raises the same as ``download``."""
        source = self._way.source
        with http_errors(source.subject, self._way.watch):
            self._way.session.connect_ahead(source.place.host, source.place.port)

    def open(self, headers: Mapping[str, str]) -> ResponseStream:
        """See ``HttpClient.open``. Once."""
        way = self._way
        if self.warm:
            way.watch.expect()
        connection = {"Connection": "keep-alive" if way.keep else "close"}
        request = _Request(way.session, way.watch, way.source.subject, {**_HEADERS, **connection, **headers})
        response, place = request.follow(way.source.place)
        self._stack.callback(response.close)
        return ResponseStream(way, place, response, self._stack.pop_all())


class _Flow:
    """Whether a body comes so fast that waiting for a whole chunk of it costs less than taking it bit by bit."""

    def __init__(self) -> None:
        self.is_fast = False
        self._since = time.monotonic()
        self._bytes = 0

    def see(self, amount: int) -> None:
        """``amount`` bytes were read. It takes a while to be fast, and a single read to be so no longer."""
        self._bytes += amount
        if not self.is_fast and self._bytes < _FAST_AFTER:
            return
        now = time.monotonic()
        self.is_fast = self._bytes >= (now - self._since) * _FAST
        self._since, self._bytes = now, 0


class ResponseStream:
    """An answer whose body is being read. A context manager."""

    def __init__(self, way: _Way, place: ParsedUrl, response: requests.Response, stack: ExitStack) -> None:
        self._way = way
        self._stack = stack
        self.watch = way.watch
        self.source = way.source
        self.place = place
        """Where the redirects led."""
        self.response = response
        self._flow = _Flow()

    def __enter__(self) -> ResponseStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._stack.close()

    def again(self) -> PendingRequest | None:
        """Another request over the same connection, if it was to be kept and the body is read: this is over then.

        A connection that the other side closes, or on which it sends more than it announced, is not used again; the
        next request makes a new one.
        """
        if not self._way.keep or self.response.raw.length_remaining != 0:
            return None
        self.response.raw.drain_conn()  # of nothing: this is how it goes back to the session
        return PendingRequest(self._way, self._stack.pop_all(), warm=True)

    def raise_if_ended(self) -> None:
        """Raise the reason if the watchdog has ended this: what was read may be less than it seems."""
        self.watch.raise_if_fired()

    def read(self, most: int) -> bytes:
        """The bytes that have come, up to ``most`` of them; nothing at the end. Waits for the rate limit."""
        rate = self._way.line.rate
        wanted = most if rate is None else rate.read_size(most)
        self.watch.expect()
        with http_errors(self.source.subject, self.watch):
            # read1 returns what there is; read waits until there is all of it. They raise at a premature end.
            raw = self.response.raw
            piece: bytes
            if self._flow.is_fast:
                piece = raw.read(min(wanted, _FAST_READ), decode_content=False)
            else:
                piece = raw.read1(wanted, decode_content=False)
        # The other side is not to blame for the time that our disk, our limits and our listeners take.
        self.watch.rest()
        self._flow.see(len(piece))
        if rate is not None and piece:
            self._pay(rate, len(piece))
        return piece

    def _pay(self, rate: RateLimit, amount: int) -> None:
        try:
            rate.take(self.place.host, amount, self.watch.ended, self.watch.deadline)
        except CancelledError:
            self.watch.raise_if_fired()
            raise

    def pieces(self, length: int | None, most: int) -> Iterator[bytes]:
        """The body as it comes in; ``length`` bytes of it if the length is known, whatever follows them."""
        missing = length
        while missing is None or missing > 0:
            piece = self.read(most if missing is None else min(most, missing))
            if not piece:
                return
            yield piece
            missing = None if missing is None else missing - len(piece)


@dataclass(frozen=True, slots=True)
class _Request:
    """What is asked for, of one place after the other."""

    session: requests.Session
    watch: Watchdog
    subject: str
    headers: Mapping[str, str]

    def follow(self, hop: ParsedUrl) -> tuple[requests.Response, ParsedUrl]:
        """The answer that is no redirect, and whose it is."""
        for _ in range(MAX_REDIRECTS + 1):
            response = self._get(hop.url)
            location = http_response.redirect_location(response)
            if location is None:
                return response, hop
            response.close()
            hop = self._next(hop, location)
        raise PermanentError(f"{self.subject} redirects more than {MAX_REDIRECTS} times", code=ErrorCode.SOURCE_REFUSED)

    def _get(self, url: str) -> requests.Response:
        with http_errors(self.subject, self.watch), ExitStack() as stack:
            response = stack.enter_context(self.session.get(url, headers=self.headers, stream=True))
            self.watch.rest()
            self.watch.raise_if_fired()
            stack.pop_all()
        return response

    def _next(self, hop: ParsedUrl, location: str) -> ParsedUrl:
        try:
            target = join_url(hop, location)
        except PermanentError:
            # Whoever gave us the URL gave a valid one: what is wrong is where it leads.
            raise forbidden() from None
        if hop.scheme == "https" and target.scheme == "http":
            raise PermanentError(f"{self.subject} redirects from https to http", code=ErrorCode.SOURCE_REFUSED)
        return target
