"""``download``: fetch a URL into a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cancellation import CancelToken
from pipeline.download.checksum import Checksum
from pipeline.download.http.request import HttpClient
from pipeline.download.http.session import DIRECT, ConnectionOptions
from pipeline.download.http.watchdog import Watchdog
from pipeline.download.progress import DownloadProgress, ProgressReporter
from pipeline.download.resume import ResumeState
from pipeline.download.sources import Source, Sources
from pipeline.download.ssrf.url_guard import UrlGuard
from pipeline.download.strategy import DownloadAttempts
from pipeline.download.types import Downloaded, DownloadLimits
from pipeline.service.logs import get_logger, loggable_url

if TYPE_CHECKING:
    from pipeline.download.http.rate_limit import RateLimit

log = get_logger(__name__)


def download(
    url: str,
    target: Path,
    *,
    guard: UrlGuard,
    limits: DownloadLimits,
    cancel: CancelToken,
    on_progress: Callable[[DownloadProgress], None] | None = None,
    connection_options: ConnectionOptions = DIRECT,
    mirrors: Sequence[str] = (),
    checksum: Checksum | None = None,
    resume: bool = False,
    rate: RateLimit | None = None,
) -> Downloaded:
    """Fetch ``url`` into ``target``, whose folder exists. Afterwards the whole file is there, or nothing.

    ``mirrors`` are tried before ``url``, in order, and require a ``checksum``. Without a checksum, a hash that
    the server announces is verified. With ``resume``, the bytes received before a transient failure stay beside
    ``target`` (``.part`` and ``.journal``) for the next call, and the file survives a power cut once this returns.
    ``rate`` is shared with other downloads.

    ``on_progress`` is called from this thread; an exception that it raises ends the download.

    Raises PermanentError (``url_invalid``, ``url_forbidden``, ``source_not_found``, ``source_refused``,
    ``source_too_large``, ``source_protocol``, ``audio_empty``), TransientError (``source_unavailable``,
    ``source_timeout``, ``source_incomplete``, ``source_protocol``, ``source_corrupt``), InfrastructureError
    (``disk_full``, ``storage_unavailable``) and CancelledError; ValueError for mirrors without a checksum.
    """
    if mirrors and checksum is None:
        raise ValueError("mirrors require a checksum, to verify that they serve the same file")
    started = time.monotonic()
    origin = guard.check_syntax(url)
    candidates = [*(Source(guard.check_syntax(mirror)) for mirror in mirrors), Source(origin)]
    subject = loggable_url(origin.url)
    with Watchdog(subject, total=limits.total_timeout, stall=limits.stall_timeout, cancel=cancel) as watchdog:
        client = HttpClient(guard, limits, connection_options, rate, watchdog)
        reporter = ProgressReporter(on_progress, started, limits.progress_interval)
        sources = Sources(candidates)
        with closing(ResumeState(target, origin.url, checksum, resume=resume)) as resume_state:
            result = DownloadAttempts(client, target, sources, resume_state, reporter, checksum, durable=resume).run()
    source = sources.current.subject
    seconds = time.monotonic() - started
    log.info("downloaded", url=source, bytes=result.bytes, seconds=round(seconds, 3), connections=result.connections)
    return Downloaded(
        target,
        result.bytes,
        result.sha256,
        result.head.content_type,
        result.head.extension,
        seconds,
        connections=result.connections,
        resumed_bytes=result.resumed_bytes,
        source=source,
    )
