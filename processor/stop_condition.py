"""A condition variable that also wakes up for a cancellation and for a shutdown."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from pipeline.cancellation import CancelToken
from pipeline.errors import CancelledError, ErrorCode
from pipeline.service.shutdown import StopSignal


class StoppableCondition:
    """A lock (``with condition:``) under which a worker thread may wait for a change by other threads. Thread-safe.

    During a shutdown no thread waits: a job that would have to wait is released at once, so that another member starts
    it while this one ends.
    """

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop
        self._changed = threading.Condition()
        stop.on_request(self.notify)

    def __enter__(self) -> None:
        self._changed.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._changed.release()

    def notify(self) -> None:
        """Wake all waiting threads, so that they evaluate their predicates again."""
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, ready: Callable[[], bool], cancel: CancelToken) -> None:
        """Wait until ``ready()`` is true, with the lock released meanwhile. Call with the lock held.

        Raises CancelledError if ``ready()`` is false and the job is cancelled, or the service stops (code
        ``shutting_down``).
        """
        if not ready():
            cancel.on_cancel(self.notify)
        while not ready():
            cancel.raise_if_set()
            if self._stop.is_set():
                raise CancelledError("the service is shutting down", code=ErrorCode.SHUTTING_DOWN)
            self._changed.wait()
