"""One file over one connection, in pieces, to a local file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import requests

from pipeline.cancel import CancelToken
from pipeline.download import response as http_response
from pipeline.download.connection import DIRECT, Wire, guarded_session
from pipeline.download.faults import translated
from pipeline.download.guard import UrlGuard, forbidden
from pipeline.download.partial import PartialFile
from pipeline.download.progress import INTERVAL, DownloadProgress, Reporter
from pipeline.download.syntax import ParsedUrl, join_url
from pipeline.download.watchdog import Watchdog
from pipeline.errors import ErrorCode, PermanentError
from pipeline.telemetry import get_logger, loggable_url

if TYPE_CHECKING:
    from config import DownloadSettings

log = get_logger(__name__)

MAX_REDIRECTS = 5

#: Compressed answers are not wanted (a few bytes can become very many), and neither is a second request on a
#: connection whose server may send more than it announced.
_HEADERS = {"User-Agent": "uvr-api", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """How much and how long. Times in s."""

    max_bytes: int
    connect_timeout: float
    """For name look-up and TCP, at each redirect again."""
    stall_timeout: float
    """For the whole head of an answer, and between any two reads of its body."""
    total_timeout: float
    """From the first look-up to the last byte, redirects included."""
    chunk_bytes: int = 1024**2
    """Most bytes per read, and size of the write buffer."""
    progress_interval: float = INTERVAL
    """Between two progress reports."""

    @classmethod
    def from_settings(cls, settings: DownloadSettings) -> DownloadLimits:
        """The limits of a source file."""
        return cls(
            max_bytes=settings.max_audio_bytes,
            connect_timeout=settings.connect_timeout,
            stall_timeout=settings.stall_timeout,
            total_timeout=settings.download_timeout,
            chunk_bytes=settings.chunk_bytes,
        )


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A file that arrived whole."""

    path: Path
    bytes: int
    sha256: str
    """In hexadecimal."""
    content_type: str | None
    """What the server says it is, which may be wrong."""
    extension: str | None
    """What the URL or the media type says it is, without a dot; from a fixed list, fit for a file name."""
    seconds: float


def download(
    url: str,
    target: Path,
    *,
    guard: UrlGuard,
    limits: DownloadLimits,
    cancel: CancelToken,
    on_progress: Callable[[DownloadProgress], None] | None = None,
    wire: Wire = DIRECT,
) -> Downloaded:
    """Fetch ``url`` into ``target``, whose folder exists. Either the whole file is there afterwards, or nothing.

    Raises PermanentError (``url_invalid``, ``url_forbidden``, ``source_not_found``, ``source_refused``,
    ``source_too_large``, ``source_protocol``, ``audio_empty``), TransientError (``source_unavailable``,
    ``source_timeout``, ``source_incomplete``, ``source_protocol``), InfrastructureError (``disk_full``,
    ``storage_unavailable``) and CancelledError. ``on_progress`` is called from this thread, and what it raises ends
    the download.
    """
    started = time.monotonic()
    first = guard.check_syntax(url)
    subject = loggable_url(first.url)
    with (
        Watchdog(subject, total=limits.total_timeout, stall=limits.stall_timeout, cancel=cancel) as watchdog,
        guarded_session(
            guard,
            connect_timeout=limits.connect_timeout,
            read_timeout=limits.total_timeout,  # the watchdog is stricter
            watchdog=watchdog,
            wire=wire,
        ) as session,
    ):
        exchange = _Exchange(session, guard, watchdog, subject)
        with exchange.open(first) as response:
            result = _receive(exchange, response, target, limits, on_progress, started)
    log.info("downloaded", url=subject, bytes=result.bytes, seconds=round(result.seconds, 3))
    return result


@dataclass(frozen=True, slots=True)
class _Exchange:
    """The requests of one download, with every exception translated."""

    session: requests.Session
    guard: UrlGuard
    watchdog: Watchdog
    subject: str

    def open(self, hop: ParsedUrl) -> requests.Response:
        """The response at the end of the redirects, its body unread."""
        for _ in range(MAX_REDIRECTS + 1):
            response = self._get(hop.url)
            location = http_response.redirect_location(response)
            if location is None:
                return response
            response.close()
            hop = self._follow(hop, location)
        raise PermanentError(f"{self.subject} redirects more than {MAX_REDIRECTS} times", code=ErrorCode.SOURCE_REFUSED)

    def _get(self, url: str) -> requests.Response:
        with translated(self.subject, self.watchdog), ExitStack() as stack:
            response = stack.enter_context(self.session.get(url, headers=_HEADERS, stream=True))
            self.watchdog.rest()
            self.watchdog.raise_if_fired()
            stack.pop_all()
        return response

    def _follow(self, hop: ParsedUrl, location: str) -> ParsedUrl:
        try:
            target = join_url(hop, location)
        except PermanentError:
            # Whoever gave us the URL gave a valid one: what is wrong is where it leads.
            raise forbidden() from None
        if hop.scheme == "https" and target.scheme == "http":
            raise PermanentError(f"{self.subject} redirects from https to http", code=ErrorCode.SOURCE_REFUSED)
        return target

    def pieces(self, response: requests.Response, length: int | None, chunk_bytes: int) -> Iterator[bytes]:
        """The body as it comes in; ``length`` bytes of it if the length is known, whatever follows them."""
        missing = length
        while missing is None or missing > 0:
            self.watchdog.expect()
            with translated(self.subject, self.watchdog):
                # read1 returns what there is; read would wait until the chunk is full. It raises at a premature end.
                wanted = chunk_bytes if missing is None else min(chunk_bytes, missing)
                piece: bytes = response.raw.read1(wanted, decode_content=False)
            # The other side is not to blame for the time that our disk and our listeners take.
            self.watchdog.rest()
            if not piece:
                return
            yield piece
            missing = None if missing is None else missing - len(piece)


def _receive(
    exchange: _Exchange,
    response: requests.Response,
    target: Path,
    limits: DownloadLimits,
    on_progress: Callable[[DownloadProgress], None] | None,
    started: float,
) -> Downloaded:
    head = http_response.read_head(response, exchange.subject, max_bytes=limits.max_bytes)
    reporter = Reporter(on_progress, head.length, started, limits.progress_interval)
    with PartialFile(target, buffer_bytes=limits.chunk_bytes) as file:
        file.require_room(head.length or 0)
        for piece in exchange.pieces(response, head.length, limits.chunk_bytes):
            if file.bytes + len(piece) > limits.max_bytes:
                raise http_response.too_large(exchange.subject, limits.max_bytes)
            file.write(piece)
            reporter.update(file.bytes)
        if not file.bytes:
            raise http_response.empty(exchange.subject)
        reporter.finish(file.bytes)
        exchange.watchdog.raise_if_fired()
        sha256 = file.commit()
    seconds = time.monotonic() - started
    return Downloaded(target, file.bytes, sha256, head.content_type, head.extension, seconds)
