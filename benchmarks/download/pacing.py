"""Sending no faster than a rate."""

from __future__ import annotations

import threading
import time

#: A sender that woke up late may catch up on this much, s; without it a busy machine would lower the rate.
_CREDIT = 0.05


class Pacer:
    """Hands out slots of a line of ``rate`` bytes/s, one after the other. Thread-safe."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    def wait(self, amount: int) -> None:
        """Return when ``amount`` bytes that were asked for now would have passed."""
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic() - _CREDIT) + amount / self.rate
            due = self._free_at
        time.sleep(max(0.0, due - time.monotonic()))
