"""Bounds the log lines that unauthenticated clients can cause."""

from __future__ import annotations

import time
from collections.abc import Callable


class LogLimit:
    """A token bucket for the lines of one event: ``burst`` at once, and one more every ``interval`` s.

    The next line that is written has the number of those ``left_out`` before it. Not thread-safe.
    """

    def __init__(self, burst: int = 50, interval: float = 2.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._spare = (burst - 1) * interval
        self._interval = interval
        self._clock = clock
        self._full_at = clock()
        self._left_out = 0

    def write(self, write: Callable[..., object], event: str, **values: object) -> None:
        """Call ``write(event, **values)``, a method of a logger, unless the bucket is empty."""
        now = self._clock()
        if self._full_at - now > self._spare:
            self._left_out += 1
            return
        self._full_at = max(self._full_at, now) + self._interval
        if self._left_out:
            values["left_out"] = self._left_out
            self._left_out = 0
        write(event, **values)
