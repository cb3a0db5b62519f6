"""How downloads are getting on, for whoever watches: a line in the log every 2 s, and Prometheus' numbers."""

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

#: Gets the share that has arrived, 0 to 1 (0 if nobody knows of how much), and how fast it goes at present.
Listener = Callable[[float, TransferRate], None]


class WatchedDownload:
    """One download under watch: hand ``progress`` to it, and its result to ``done``. Not thread-safe."""

    def __init__(self, what: str, listener: Listener | None = None) -> None:
        """``what``: the kind of file, one of a few."""
        self._what = what
        self._listener = listener
        self._bytes: int | None = None
        self._seconds = 0.0

    def progress(self, progress: DownloadProgress) -> None:
        """Tell how far it has come. Raises what the listener raises."""
        if self._bytes is None:
            self._bytes = progress.resumed
        pace = self._pace(progress)
        self._count(progress.bytes)
        self._seconds = progress.seconds
        if progress.bytes != progress.total:  # the end has a line of its own
            self._log(progress.fraction, pace)
        if self._listener is not None:
            self._listener(progress.fraction or 0.0, pace)

    def done(self, result: Downloaded) -> Downloaded:
        """Count what the whole of it came to."""
        self._count(result.bytes)
        fetched = result.bytes - result.resumed_bytes
        metrics.download_rate.labels(self._what).observe(fetched / result.seconds if result.seconds else 0.0)
        metrics.download_connections.labels(self._what).observe(result.connections)
        metrics.download_resumed_bytes.labels(self._what).inc(result.resumed_bytes)
        return result

    def _log(self, fraction: float | None, pace: TransferRate) -> None:
        log.info(
            "downloading",
            what=self._what,
            percent=_rounded(fraction, 100),
            mb_per_second=_rounded(pace.bytes_per_second, 1 / _MB),
            seconds_left=_rounded(pace.seconds_left),
        )

    def _pace(self, progress: DownloadProgress) -> TransferRate:
        """Since the last time, and not since the beginning: a download may become faster, and may stall."""
        seconds = progress.seconds - self._seconds
        rate = self._since(progress.bytes) / seconds if seconds > 0 else 0.0
        left = None if progress.total is None or not rate else (progress.total - progress.bytes) / rate
        return TransferRate(rate, left)

    def _count(self, arrived: int) -> None:
        metrics.download_bytes.labels(self._what).inc(self._since(arrived))
        self._bytes = arrived

    def _since(self, arrived: int) -> int:
        """Bytes since the last time; none if what had come was found to be wrong, and is fetched again."""
        return max(arrived - (self._bytes or 0), 0)


def _rounded(value: float | None, scale: float = 1.0) -> float | None:
    return None if value is None else round(value * scale, 2)


@contextmanager
def watch_download(what: str, listener: Listener | None = None) -> Iterator[WatchedDownload]:
    """A download in a block; how the block ends is counted. See ``WatchedDownload``."""
    outcome: str = ErrorCode.INTERNAL
    try:
        yield WatchedDownload(what, listener)
        outcome = "success"
    except PipelineError as error:
        outcome = error.code
        raise
    finally:
        metrics.downloads.labels(what, str(outcome)).inc()
