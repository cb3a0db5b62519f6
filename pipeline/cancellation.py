"""A token that tells running work to stop, and why."""

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
    """Set once, by whoever decides that the work must stop; watched by whoever does the work. Thread-safe."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._reason: ErrorCode | None = None
        self._listeners: list[Callable[[], None]] = []

    @property
    def reason(self) -> ErrorCode | None:
        """Why the work must stop; None while it may go on. The first reason stays."""
        return self._reason

    def cancel(self, reason: ErrorCode) -> None:
        """Tell the work to stop; a second call changes nothing."""
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason
            listeners = tuple(self._listeners)
        self._event.set()
        for listener in listeners:
            try:
                listener()
            except Exception:  # the boundary: whoever cancels has other work to stop, and a membership to keep
                log.exception("cancel_listener_failed")

    def on_cancel(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` (from the cancelling thread) when the token is set, or now if it already is."""
        with self._lock:
            if self._reason is None:
                self._listeners.append(listener)
                return
        listener()

    def is_set(self) -> bool:
        """Whether the work must stop."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep up to ``seconds``, waking early and returning True if the work must stop."""
        return self._event.wait(seconds)

    def raise_if_set(self) -> None:
        """Raise ``CancelledError`` if the work must stop."""
        if self._reason is not None:
            raise CancelledError(_REASONS.get(self._reason, "the job was cancelled"), code=self._reason)
