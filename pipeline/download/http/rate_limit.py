"""How fast this process downloads: token buckets that everything in it shares."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.cancellation import CancelToken

if TYPE_CHECKING:
    from config import DownloadSettings

#: How much an idle bucket has saved up, s of its rate: enough to even out what the scheduler does, no visible burst.
BURST = 0.25
#: Less than this is not worth a read, bytes.
_SMALLEST = 4096


class RateLimit:
    """``total`` for the whole process and ``per_host`` for each host, bytes/s; None: no limit. Thread-safe.

    Whoever has read bytes takes them afterwards, and waits until they are paid for: that way exactly what came counts,
    and whoever reads much at once waits the longer. Nobody waits in vain and nobody is woken in vain: when a reader's
    turn comes is known the moment it asks.
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
        """The operator's limits; None if there are none."""
        if not settings.rate_limit and not settings.rate_limit_per_host:
            return None
        return cls(settings.rate_limit or None, settings.rate_limit_per_host or None)

    def most(self, wanted: int) -> int:
        """How many of ``wanted`` bytes to read at a time, so that a slow limit is not kept by long silences."""
        return min(wanted, max(int(min(self._total.rate, self._per_host, wanted / BURST) * BURST), _SMALLEST))

    def take(self, host: str, amount: int, cancel: CancelToken, deadline: float) -> None:
        """Wait until ``amount`` more bytes from ``host`` are within the limits, or ``deadline`` (``time.monotonic``).

        Raises CancelledError when ``cancel`` is set meanwhile.
        """
        with self._lock:
            now = self._clock()
            paid_at = max(self._total.charge(amount, now), self._bucket(host, now).charge(amount, now))
        until = min(paid_at, deadline)
        if until > now:
            cancel.wait(until - now)
        cancel.raise_if_set()

    def _bucket(self, host: str, now: float) -> _Bucket:
        bucket = self._hosts.get(host)
        if bucket is None:
            # A bucket that is full again is as good as none: hosts come and go for as long as the process lives.
            self._hosts = {name: kept for name, kept in self._hosts.items() if not kept.is_full(now)}
            bucket = self._hosts[host] = _Bucket(self._per_host)
        return bucket


class _Bucket:
    """A token bucket, kept as the time at which all that was taken is paid for: tokens need not be poured in."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._paid_at = -math.inf

    def charge(self, amount: int, now: float) -> float:
        """When ``amount`` more is paid for."""
        self._paid_at = max(self._paid_at, now - BURST) + amount / self.rate
        return self._paid_at

    def is_full(self, now: float) -> bool:
        return self._paid_at <= now - BURST
