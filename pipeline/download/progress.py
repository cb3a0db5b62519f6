"""Progress reports of a download."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

#: Default time between two reports, s.
INTERVAL = 2.0


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """The state of a download at one moment."""

    bytes: int
    """Bytes received so far, resumed ones included."""
    total: int | None
    """Size of the file in bytes; None if the server did not announce it."""
    seconds: float
    """Time since the download began."""
    resumed: int = 0
    """Bytes kept from an earlier download."""

    @property
    def fraction(self) -> float | None:
        """Share received, 0 to 1; None if the size is unknown."""
        return None if self.total is None else self.bytes / self.total

    @property
    def bytes_per_second(self) -> float:
        """Mean rate since the beginning."""
        return self.bytes / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Remaining time at the mean rate; None if it cannot be estimated."""
        if self.total is None or not self.bytes_per_second:
            return None
        return (self.total - self.bytes) / self.bytes_per_second


class ProgressReporter:
    """Calls ``listener`` at most once per ``interval`` s, and once at the end."""

    def __init__(self, listener: Callable[[DownloadProgress], None] | None, started: float, interval: float) -> None:
        self._listener = listener
        self._started = started
        self._interval = interval
        self._next = started + interval
        self.total: int | None = None
        """Size of the file in bytes, once known."""
        self.resumed = 0
        """Bytes kept from an earlier download."""

    def update(self, received: int) -> None:
        """Report if the interval has passed."""
        if time.monotonic() >= self._next:
            self.finish(received)

    def finish(self, received: int) -> None:
        """Report now."""
        if self._listener is not None:
            now = time.monotonic()
            self._next = now + self._interval
            self._listener(DownloadProgress(received, self.total, now - self._started, self.resumed))
