"""How a download is getting on, told now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

#: Between two reports, s.
INTERVAL = 2.0


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """What has arrived so far."""

    bytes: int
    total: int | None
    """Bytes in all; None if the server did not say."""
    seconds: float
    """Since the download began."""
    resumed: int = 0
    """Bytes of it that an earlier download had left."""

    @property
    def fraction(self) -> float | None:
        """Share that has arrived, 0 to 1."""
        return None if self.total is None else self.bytes / self.total

    @property
    def bytes_per_second(self) -> float:
        """Mean rate since the beginning."""
        return self.bytes / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Time to the end at the mean rate."""
        if self.total is None or not self.bytes_per_second:
            return None
        return (self.total - self.bytes) / self.bytes_per_second


class ProgressReporter:
    """Calls ``listener`` at most once per ``interval`` s, and once at the end."""

    def __init__(
        self, listener: Callable[[DownloadProgress], None] | None, total: int | None, started: float, interval: float
    ) -> None:
        self._listener = listener
        self.total = total
        """Bytes in all, once that is known."""
        self.resumed = 0
        """Bytes that were there already."""
        self._started = started
        self._interval = interval
        self._next = started + interval

    def update(self, received: int) -> None:
        """Report if it is time."""
        if self._listener is not None and time.monotonic() >= self._next:
            self._tell(self._listener, received)

    def finish(self, received: int) -> None:
        """Report, because this is the end."""
        if self._listener is not None:
            self._tell(self._listener, received)

    def _tell(self, listener: Callable[[DownloadProgress], None], received: int) -> None:
        now = time.monotonic()
        self._next = now + self._interval
        listener(DownloadProgress(received, self.total, now - self._started, self.resumed))
