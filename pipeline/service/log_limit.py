"""Bounds the log lines that repeat: those that unauthenticated clients cause, and those of a lasting fault."""

from __future__ import annotations

import threading
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


class ChangeLimit:
    """Lets a repeated state be logged when it changes, and again every ``interval`` s. Thread-safe."""

    def __init__(self, interval: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._clock = clock
        self._lock = threading.Lock()
        self._logged: dict[str, tuple[str, float]] = {}
        """The last logged state and its time on the clock, s, by subject."""

    def is_news(self, subject: str, state: str) -> bool:
        """Return whether ``state`` of ``subject`` is to be logged now."""
        now = self._clock()
        with self._lock:
            known, logged_at = self._logged.get(subject, ("", 0.0))
            if known == state and now - logged_at < self._interval:
                return False
            self._logged[subject] = state, now
        return True

    def forget(self, subject: str) -> bool:
        """Return whether a state of ``subject`` was logged; the next one will be logged as well."""
        with self._lock:
            return self._logged.pop(subject, None) is not None
