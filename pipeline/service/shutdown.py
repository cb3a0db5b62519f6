"""How a process starts, stops and says why: exit codes, signals, the shutdown deadline."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from enum import IntEnum
from types import FrameType

from pipeline.service.logs import get_logger

log = get_logger(__name__)


class ExitCode(IntEnum):
    """What a service's exit status means. The values above zero are those of BSD's sysexits.h."""

    OK = 0
    UNAVAILABLE = 69  # something that must be there at the start is not: the model, a port
    INTERNAL = 70  # a defect of ours
    REFUSED = 77  # the broker does not let this service in: wrong credentials, certificates, rights
    CONFIG = 78  # a setting cannot be used
    KILLED = 130  # a second signal cut the shutdown short


def _noted(_number: int, _frame: FrameType | None) -> None:
    """Python writes signals to the file of ``set_wakeup_fd`` only where there is a handler for them."""


class StopSignal:
    """Asks the service to stop: the first signal politely, the second at once.

    After the first, ``on_deadline`` listeners are called once ``grace`` s have passed, so that work which is
    still running can be given back. Thread-safe.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._requested = threading.Event()
        self._expired = threading.Event()
        self._lock = threading.Lock()
        self._listeners: dict[object, Callable[[], None]] = {}
        self._on_request: list[Callable[[], None]] = []

    def install(self) -> None:
        """Listen to SIGTERM and SIGINT. Call from the main thread, once."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        # The number of a signal is written there at once, whatever the main thread does. A handler in Python has to
        # wait until that thread wakes up, and one that is just falling asleep, waiting for its lanes, does not.
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reading,), name="signals", daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _noted)

    def _watch(self, reading: int) -> None:
        (first,) = os.read(reading, 1)
        # A thread of its own, so that no listener keeps the second signal waiting.
        threading.Thread(target=self.request, args=(signal.Signals(first).name,), daemon=True).start()
        os.read(reading, 1)
        # No clean-up: whoever sends a second signal wants the process gone. Unsettled jobs come again.
        os._exit(ExitCode.KILLED)

    def request(self, why: str) -> None:
        """Begin the shutdown; a second call changes nothing."""
        with self._lock:
            if self._requested.is_set():
                return
            self._requested.set()
            listeners = tuple(self._on_request)
        log.info("stopping", why=why, grace_seconds=self._grace)
        timer = threading.Timer(self._grace, self._expire)
        timer.daemon = True
        timer.start()
        for listener in listeners:
            listener()

    def on_request(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` when the shutdown begins (now, if it already has)."""
        with self._lock:
            if not self._requested.is_set():
                self._on_request.append(listener)
                return
        listener()

    def is_set(self) -> bool:
        """Whether the service should take no new work."""
        return self._requested.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep up to ``seconds``, waking early and returning True when the service should stop."""
        return self._requested.wait(seconds)

    def on_deadline(self, key: object, listener: Callable[[], None]) -> None:
        """Call ``listener`` when the grace is over (now, if it already is); ``forget(key)`` takes it back."""
        with self._lock:
            if not self._expired.is_set():
                self._listeners[key] = listener
                return
        listener()

    def forget(self, key: object) -> None:
        """Take back the listener of ``on_deadline``."""
        with self._lock:
            self._listeners.pop(key, None)

    def _expire(self) -> None:
        with self._lock:
            self._expired.set()
            listeners = tuple(self._listeners.values())
        if listeners:
            log.warning("grace_over", jobs_given_back=len(listeners))
        for listener in listeners:
            listener()
