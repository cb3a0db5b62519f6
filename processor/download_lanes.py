"""Keeps slow downloads from delaying the jobs behind them.

Each worker thread is a lane. A download that cannot finish within its time limit ends as soon as that is certain enough
(the rate floor), and goes to the back of the queue as any transient failure does. Downloads that will take long leave
one lane free: one too many is deferred, which spends no attempt.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from pipeline.download import DownloadProgress
from pipeline.errors import DeferredError, ErrorCode, TransientError

#: Time from the first bytes until a download is judged by its rate, s: longer than TCP's slow start and a cold cache.
GRACE: Final = 10.0
#: A download that needs longer than this from now on is slow, s.
SLOW: Final = 60.0
#: Lowest rate of a source that announces no length, bytes per second: below the bit rate of any music codec.
MIN_RATE: Final = 1000.0


@dataclass
class DownloadLanes:
    """The downloads of one processor. Thread-safe.

    ``lanes``: the number of its worker threads. ``timeout``: time limit of one download, s. ``grace``: s.
    """

    lanes: int
    timeout: float
    grace: float = GRACE
    _slow: set[Lane] = field(default_factory=set, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    @contextmanager
    def lane(self, clock: Callable[[], float] = time.monotonic) -> Iterator[Lane]:
        """Enter a download, which passes its progress to the lane."""
        lane = Lane(self, clock)
        try:
            yield lane
        finally:
            with self._lock:
                self._slow.discard(lane)

    def mark(self, lane: Lane, *, slow: bool) -> None:
        """Record whether a download is slow. Raises DeferredError (code ``source_slow``) if no lane is left for it."""
        with self._lock:
            self._slow.discard(lane)
            if slow and len(self._slow) >= max(1, self.lanes - 1):
                raise DeferredError("other slow downloads have to end first", code=ErrorCode.SOURCE_SLOW)
            if slow:
                self._slow.add(lane)


class Lane:
    """The rate of one download. Used by one thread."""

    def __init__(self, lanes: DownloadLanes, clock: Callable[[], float]) -> None:
        self._lanes = lanes
        self._clock = clock
        self._first: tuple[float, int] | None = None
        """Time and number of bytes at the first report. The wait for the response is not the source's rate."""
        self._last: tuple[float, int] = (0.0, 0)

    def check(self, progress: DownloadProgress) -> None:
        """Judge the download by the better one of its mean rate and its latest rate.

        Raises TransientError (code ``source_timeout``) if it cannot finish within the time limit, and DeferredError
        (code ``source_slow``) if it is slow and slow downloads have all lanes but one.
        """
        now = self._clock()
        if self._first is None:
            self._first = self._last = (now, progress.bytes)
            return
        rate = max(_rate(self._first, now, progress.bytes), _rate(self._last, now, progress.bytes))
        self._last = (now, progress.bytes)
        if now - self._first[0] < self._lanes.grace:
            return
        if progress.total is None:
            left = 0.0 if rate >= MIN_RATE else float("inf")
        else:
            left = (progress.total - progress.bytes) / rate if rate else float("inf")
        if progress.seconds + left > self._lanes.timeout:
            raise TransientError(
                f"the source sends too slowly to be downloaded within {self._lanes.timeout:.0f} s",
                code=ErrorCode.SOURCE_TIMEOUT,
            )
        self._lanes.mark(self, slow=left > SLOW)


def _rate(since: tuple[float, int], now: float, received: int) -> float:
    seconds = now - since[0]
    return (received - since[1]) / seconds if seconds > 0 else 0.0
