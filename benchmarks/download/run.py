"""What the server knows of one run of one client."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.download.answer import ServedFile
from benchmarks.download.pacing import Pacer
from benchmarks.download.profile import Profile


class DownloadRun:
    """The files that a run sees, and what it has had of them so far. Thread-safe."""

    def __init__(self, profile: Profile, old: ServedFile, new: ServedFile) -> None:
        self.profile = profile
        self.old = old
        self.new = new
        self.pacer = Pacer(profile.shared_rate) if profile.shared_rate else None
        self.delivered = 0
        """Bytes of bodies that were given to the kernel."""
        self.requests = 0
        self.busy_most = 0
        """Answers that were being sent at the same time, at most."""
        self._busy = 0
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Around each answer."""
        with self._lock:
            self.requests += 1
            self._busy += 1
            self.busy_most = max(self.busy_most, self._busy)
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1

    def add(self, amount: int) -> None:
        """``amount`` bytes more were delivered."""
        with self._lock:
            self.delivered += amount

    def first(self, event: str) -> bool:
        """Whether ``event`` happens for the first time in this run."""
        with self._lock:
            new = event not in self._seen
            self._seen.add(event)
        return new

    def happened(self, event: str) -> bool:
        with self._lock:
            return event in self._seen

    def figures(self) -> dict[str, int]:
        """For the harness."""
        with self._lock:
            return {"delivered": self.delivered, "requests": self.requests, "connections": self.busy_most}
