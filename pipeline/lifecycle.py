"""How a process starts, stops and says why: exit codes, signals, the shutdown deadline."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from enum import IntEnum
from types import FrameType

from pipeline.telemetry import get_logger

log = get_logger(__name__)


class ExitCode(IntEnum):
    """What a service's exit status means. The values above zero are those of BSD's sysexits.h."""

    OK = 0
    UNAVAILABLE = 69  # something that must be there at the start is not: the model, a port
    INTERNAL = 70  # a defect of ours
    CONFIG = 78  # a setting cannot be used
    KILLED = 130  # a second signal cut the shutdown short


class StopSignal:
    """Asks the service to stop: the first signal politely, the second at once.

    After the first, ``on_deadline`` listeners are called once ``grace`` s have passed, so that work which is
    still running can be given back.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._signalled = False
        self._requested = threading.Event()
        self._expired = threading.Event()
        self._lock = threading.Lock()
        self._listeners: dict[object, Callable[[], None]] = {}
        self._on_request: list[Callable[[], None]] = []

    def install(self) -> None:
        """Listen to SIGTERM and SIGINT. Call from the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._signalled:
            # No clean-up: whoever sends a second signal wants the process gone. Unsettled jobs come again.
            os._exit(ExitCode.KILLED)
        self._signalled = True
        self._requested.set()
        # The handler interrupts arbitrary code of the main thread, which may hold the log's lock.
        threading.Thread(target=self.request, args=(signal.Signals(number).name,), daemon=True).start()

    def request(self, why: str) -> None:
        """Begin the shutdown."""
        log.info("stopping", why=why, grace_seconds=self._grace)
        self._requested.set()
        timer = threading.Timer(self._grace, self._expire)
        timer.daemon = True
        timer.start()
        for listener in self._on_request:
            listener()

    def on_request(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` when the shutdown begins."""
        self._on_request.append(listener)

    def is_set(self) -> bool:
        """Whether the service should take no new work."""
        return self._requested.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep up to ``seconds``, waking early and returning True when the service should stop."""
        return self._requested.wait(seconds)

    def on_deadline(self, key: object, listener: Callable[[], None]) -> None:
        """Call ``listener`` when the grace is over (now, if it already is); ``forget(key)`` takes it back."""
        with self._lock:
            self._listeners[key] = listener
        if self._expired.is_set():
            listener()

    def forget(self, key: object) -> None:
        """Take back the listener of ``on_deadline``."""
        with self._lock:
            self._listeners.pop(key, None)

    def _expire(self) -> None:
        self._expired.set()
        with self._lock:
            listeners = tuple(self._listeners.values())
        for listener in listeners:
            listener()
