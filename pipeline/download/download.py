"""``download``: from a URL to a file, by whatever way and from whatever source serves."""

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
from pipeline.download.mirrors import by_speed
from pipeline.download.parallel.resume import ResumeState
from pipeline.download.progress import DownloadProgress, ProgressReporter
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
    """Fetch ``url`` into ``target``, whose folder exists. Either the whole file is there afterwards, or nothing.

    ``mirrors`` are asked before ``url``, the fastest first, and need a ``checksum``. Without one, a hash that the
    server announces is checked. With ``resume``, what has come before a failure that passes stays beside ``target``
    (``.part`` and ``.journal``) for the next call, and the file is safe from a power cut when this returns. ``rate``
    is shared with other downloads.

    Raises PermanentError (``url_invalid``, ``url_forbidden``, ``source_not_found``, ``source_refused``,
    ``source_too_large``, ``source_protocol``, ``audio_empty``), TransientError (``source_unavailable``,
    ``source_timeout``, ``source_incomplete``, ``source_protocol``, ``source_corrupt``), InfrastructureError
    (``disk_full``, ``storage_unavailable``) and CancelledError; ValueError for mirrors without a checksum.
    ``on_progress`` is called from this thread, and what it raises ends the download.
    """
    if mirrors and checksum is None:
        raise ValueError("mirrors need a checksum: nothing else tells whether they have the same file")
    started = time.monotonic()
    origin = guard.check_syntax(url)
    sources = [*(Source(guard.check_syntax(mirror)) for mirror in mirrors), Source(origin)]
    subject = loggable_url(origin.url)
    with Watchdog(subject, total=limits.total_timeout, stall=limits.stall_timeout, cancel=cancel) as watchdog:
        line = HttpClient(guard, limits, connection_options, rate, watchdog)
        reporter = ProgressReporter(on_progress, None, started, limits.progress_interval)
        left = Sources(by_speed(line, sources))
        with closing(ResumeState(target, origin.url, checksum, resume=resume)) as remains:
            arrived = DownloadAttempts(line, target, left, remains, reporter, checksum, durable=resume).run()
    source = left.current.subject
    seconds = time.monotonic() - started
    log.info("downloaded", url=source, bytes=arrived.bytes, seconds=round(seconds, 3), connections=arrived.connections)
    return Downloaded(
        target,
        arrived.bytes,
        arrived.sha256,
        arrived.head.content_type,
        arrived.head.extension,
        seconds,
        connections=arrived.connections,
        resumed_bytes=arrived.resumed_bytes,
        source=source,
    )
