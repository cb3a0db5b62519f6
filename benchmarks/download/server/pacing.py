"""Rate limiting of a sender."""

from __future__ import annotations

import threading
import time

#: A sender that wakes up late may catch up by this, s; otherwise a busy machine would lower the rate.
_CREDIT = 0.05


class Pacer:
    """Limits senders to ``rate`` bytes/s together. Thread-safe."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    def wait(self, amount: int) -> None:
        """Wait until ``amount`` further bytes are within the rate."""
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic() - _CREDIT) + amount / self.rate
            due = self._free_at
        time.sleep(max(0.0, due - time.monotonic()))
