"""Progress of downloads: a log line every 2 s, Prometheus metrics, and a listener."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.download import Downloaded, DownloadProgress
from pipeline.errors import ErrorCode, PipelineError
from pipeline.progress import TransferRate
from pipeline.service import metrics
from pipeline.service.logs import get_logger

log = get_logger(__name__)

_MB = 1e6

#: Receives the downloaded share, 0 to 1 (0 if the total is unknown), and the current rate.
Listener = Callable[[float, TransferRate], None]


class WatchedDownload:
    """The progress of one download: pass ``progress`` to ``download``, and its result to ``done``. Not thread-safe.

    ``what``: the kind of file, one of a few, for logs and metrics.
    """

    def __init__(self, what: str, listener: Listener | None = None) -> None:
        self._what = what
        self._listener = listener
        self._bytes: int | None = None
        self._seconds = 0.0

    def progress(self, progress: DownloadProgress) -> None:
        """Log, count and pass on the progress. Raises the errors of the listener."""
        if self._bytes is None:
            self._bytes = progress.resumed
        # The rate since the last call, not since the beginning: a download may speed up and may stall.
        elapsed = progress.seconds - self._seconds
        received = max(progress.bytes - self._bytes, 0)  # 0 after a restart that discarded wrong bytes
        speed = received / elapsed if elapsed > 0 else 0.0
        seconds_left = (progress.total - progress.bytes) / speed if progress.total is not None and speed else None
        metrics.download_bytes.labels(self._what).inc(received)
        self._bytes, self._seconds = progress.bytes, progress.seconds
        if progress.bytes != progress.total:  # the caller logs the end
            log.info(
                "downloading",
                what=self._what,
                percent=_round(progress.fraction, 100),
                mb_per_second=_round(speed, 1 / _MB),
                seconds_left=_round(seconds_left),
            )
        if self._listener is not None:
            self._listener(progress.fraction or 0.0, TransferRate(speed, seconds_left))

    def done(self, result: Downloaded) -> Downloaded:
        """Count the totals of the download and return ``result``."""
        metrics.download_bytes.labels(self._what).inc(max(result.bytes - (self._bytes or 0), 0))
        fetched = result.bytes - result.resumed_bytes
        metrics.download_rate.labels(self._what).observe(fetched / result.seconds if result.seconds else 0.0)
        metrics.download_connections.labels(self._what).observe(result.connections)
        metrics.download_resumed_bytes.labels(self._what).inc(result.resumed_bytes)
        return result


def _round(value: float | None, scale: float = 1.0) -> float | None:
    return None if value is None else round(value * scale, 2)


@contextmanager
def watch_download(what: str, listener: Listener | None = None) -> Iterator[WatchedDownload]:
    """Count how the download in the block ends. See ``WatchedDownload``."""
    outcome: str = ErrorCode.INTERNAL
    try:
        yield WatchedDownload(what, listener)
        outcome = "success"
    except PipelineError as error:
        outcome = error.code
        raise
    finally:
        metrics.downloads.labels(what, str(outcome)).inc()
