"""Download rate limits of one process: token buckets that all of its downloads share."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.cancellation import CancelToken

if TYPE_CHECKING:
    from config import DownloadSettings

#: Capacity of a bucket, s of its rate: enough to even out the scheduler's delays, without a visible burst.
BURST = 0.25
#: Smallest useful read, bytes.
_MIN_READ_BYTES = 4096


class RateLimit:
    """``total`` for the whole process and ``per_host`` for each host, bytes/s; None: no limit. Thread-safe.

    Readers take bytes after they have read them, and wait until these fit the rate. So exactly the received bytes
    count, and no reader wakes up early: the end of its wait is known when it begins.
    """

    def __init__(
        self, total: float | None, per_host: float | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total = _Bucket(total or math.inf)
        self._per_host = per_host or math.inf
        self._hosts: dict[str, _Bucket] = {}
        self._clock = clock
        self._lock = threading.Lock()

    @classmethod
    def from_settings(cls, settings: DownloadSettings) -> RateLimit | None:
        """Return the limits of the settings; None without any."""
        if not settings.rate_limit and not settings.rate_limit_per_host:
            return None
        return cls(settings.rate_limit or None, settings.rate_limit_per_host or None)

    def read_size(self, wanted: int) -> int:
        """Return the bytes to read at a time, at most ``wanted``: small reads avoid long pauses at a slow rate."""
        return min(wanted, max(int(min(self._total.rate, self._per_host, wanted / BURST) * BURST), _MIN_READ_BYTES))

    def take(self, host: str, amount: int, cancel: CancelToken, deadline: float) -> None:
        """Wait until ``amount`` more bytes from ``host`` are within the limits, or ``deadline`` (``time.monotonic``).

        Raises CancelledError when ``cancel`` is set.
        """
        with self._lock:
            now = self._clock()
            bucket = self._hosts.get(host)
            if bucket is None:
                # A full bucket equals a new one: drop them, or every host would stay in memory.
                self._hosts = {name: kept for name, kept in self._hosts.items() if kept.balanced_at > now - BURST}
                bucket = self._hosts[host] = _Bucket(self._per_host)
            end = min(max(self._total.take(amount, now), bucket.take(amount, now)), deadline)
        if end > now:
            cancel.wait(end - now)
        cancel.raise_if_set()


class _Bucket:
    """A token bucket, stored as the time at which it has no debt; so no timer has to refill it."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.balanced_at = -math.inf

    def take(self, amount: int, now: float) -> float:
        """Return the time from which ``amount`` more is within the rate."""
        self.balanced_at = max(self.balanced_at, now - BURST) + amount / self.rate
        return self.balanced_at
