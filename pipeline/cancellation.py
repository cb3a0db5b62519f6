"""A token that asks running work to stop, and gives the reason."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pipeline.errors import CancelledError, ErrorCode
from pipeline.service.logs import get_logger

log = get_logger(__name__)

_REASONS = {
    ErrorCode.DELIVERY_LOST: "the job now belongs to another consumer",
    ErrorCode.SHUTTING_DOWN: "the service is shutting down",
}


class CancelToken:
    """A one-time request to stop running work, which the work has to check. Thread-safe."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._reason: ErrorCode | None = None
        self._listeners: list[Callable[[], None]] = []

    @property
    def reason(self) -> ErrorCode | None:
        """Return the reason to stop, or None while the work may go on. The first reason stays."""
        return self._reason

    def cancel(self, reason: ErrorCode) -> None:
        """Request the stop; a second call changes nothing."""
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason
            listeners = tuple(self._listeners)
        self._event.set()
        for listener in listeners:
            try:
                listener()
            except Exception:  # the boundary: the canceller has further jobs to stop and a group membership to keep
                log.exception("cancel_listener_failed")

    def on_cancel(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` when the token is set, in the thread that sets it, or now if it already is."""
        with self._lock:
            if self._reason is None:
                self._listeners.append(listener)
                return
        listener()

    def is_set(self) -> bool:
        """Return whether the work must stop."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for the token to be set, and return whether it is."""
        return self._event.wait(seconds)

    def raise_if_set(self) -> None:
        """Raise ``CancelledError`` if the work must stop."""
        if self._reason is not None:
            raise CancelledError(_REASONS.get(self._reason, "the job was cancelled"), code=self._reason)
