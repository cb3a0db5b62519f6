"""Limits the worker threads that the webhooks to one receiver may hold, so that no receiver delays the others.

A receiver that answers within a second is never limited by more than the number of its slots. One that accepts and does
not answer holds its slots until the time limit; its other webhooks are deferred to a retry topic meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from pipeline.errors import DeferredError, ErrorCode

#: Wait for a slot of a receiver, s, counted from the begin of its latest webhook.
PATIENCE = 1.0


class ReceiverShare:
    """The slots of each receiver (host and port): half of the ``threads``, and at least one. Thread-safe."""

    def __init__(self, threads: int, patience: float = PATIENCE) -> None:
        self._slots = max(1, threads // 2)
        self._patience = patience
        self._changed = threading.Condition()
        self._begun: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
        """When the webhooks that hold a slot began, oldest first."""

    def require_responsive(self, url: str) -> None:
        """Raise DeferredError (code ``receiver_busy``) if its slots are held for longer than ``patience``."""
        with self._changed:
            if self._wait_left(self._begun.get(_receiver(url), [])) <= 0:
                raise _busy()

    @contextmanager
    def slot(self, url: str) -> Iterator[None]:
        """Hold a slot of the receiver while the block runs, after a short wait for it.

        Raises DeferredError (code ``receiver_busy``) if the receiver's slots are held for longer than ``patience``.
        """
        receiver = _receiver(url)
        with self._changed:
            begun = self._begun[receiver]
            while len(begun) >= self._slots:
                left = self._wait_left(begun)
                if left <= 0:
                    raise _busy()
                self._changed.wait(left)
                begun = self._begun[receiver]
            started = time.monotonic()
            begun.append(started)
        try:
            yield
        finally:
            with self._changed:
                begun.remove(started)
                if not begun:
                    del self._begun[receiver]
                self._changed.notify_all()

    def _wait_left(self, begun: list[float]) -> float:
        """Return how long a webhook may wait for a slot, s."""
        return self._patience if len(begun) < self._slots else begun[-1] + self._patience - time.monotonic()


def _receiver(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        return "", 0  # the URL guard refuses it


def _busy() -> DeferredError:
    return DeferredError("earlier webhooks to this receiver are not answered yet", code=ErrorCode.RECEIVER_BUSY)
