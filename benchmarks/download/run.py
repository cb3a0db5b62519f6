"""The server's state of one run of one client."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.download.server.answer import ServedFile
from benchmarks.download.server.pacing import Pacer
from benchmarks.download.server.profile import Profile


class DownloadRun:
    """The files of a run, and counters of the bytes and requests served. Thread-safe."""

    def __init__(self, profile: Profile, old: ServedFile, new: ServedFile) -> None:
        self.profile = profile
        self.old = old
        self.new = new
        self.pacer = Pacer(profile.shared_rate) if profile.shared_rate else None
        self.delivered = 0
        """Body bytes passed to the kernel."""
        self.requests = 0
        self.max_busy = 0
        """Maximum responses sent at the same time."""
        self._busy = 0
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Count the response sent in the block."""
        with self._lock:
            self.requests += 1
            self._busy += 1
            self.max_busy = max(self.max_busy, self._busy)
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1

    def add(self, amount: int) -> None:
        """Count ``amount`` delivered bytes."""
        with self._lock:
            self.delivered += amount

    def first(self, event: str) -> bool:
        """Record ``event``, and return whether it is the first one in this run."""
        with self._lock:
            new = event not in self._seen
            self._seen.add(event)
        return new

    def happened(self, event: str) -> bool:
        with self._lock:
            return event in self._seen

    def figures(self) -> dict[str, int]:
        """Return the counters."""
        with self._lock:
            return {"delivered": self.delivered, "requests": self.requests, "connections": self.max_busy}
