"""Waiting for one's turn among the lanes: until it has come, the job is cancelled, or the service stops."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from pipeline.cancellation import CancelToken
from pipeline.errors import CancelledError, ErrorCode
from pipeline.service.shutdown import StopSignal


class StoppableCondition:
    """A lock (``with room:``) under which a lane may wait for what other lanes do. Thread-safe.

    Once the service stops nobody waits any more: a job that would have to is given back at once, so that another
    member begins with it while this one ends.
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
        """Have all who wait look again."""
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, ready: Callable[[], bool], cancel: CancelToken) -> None:
        """Wait, with the lock let go meanwhile, until ``ready()``. Call with the lock held.

        Raises CancelledError (code ``shutting_down`` if the service stops) when it is not ready and will not be
        waited for.
        """
        if not ready():
            cancel.on_cancel(self.notify)
        while not ready():
            cancel.raise_if_set()
            if self._stop.is_set():
                raise CancelledError("the service is shutting down", code=ErrorCode.SHUTTING_DOWN)
            self._changed.wait()
