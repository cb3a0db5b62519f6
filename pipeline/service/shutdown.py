"""The shutdown of a process: exit codes, signals, the shutdown deadline."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from enum import IntEnum

from pipeline.service.logs import get_logger

log = get_logger(__name__)

#: Time after the first signal in which further ones count as the same, s. Supervisors and ``timeout`` may signal a
#: process and its group, so that one request to stop arrives as several signals.
SAME_SIGNAL = 1.0


class ExitCode(IntEnum):
    """The exit statuses of a service. The values above zero are those of BSD's sysexits.h."""

    OK = 0
    UNAVAILABLE = 69  # something required at the start is missing, such as the model or a port
    INTERNAL = 70  # a defect of the service
    REFUSED = 77  # the broker rejects this service: wrong credentials, certificates or rights
    CONFIG = 78  # a setting is unusable
    KILLED = 130  # a second signal cut the shutdown short


class StopSignal:
    """The request to shut down: gracefully at the first signal, at once at one that follows after ``SAME_SIGNAL``.

    ``grace`` s after the first signal the ``on_deadline`` listeners are called, so that jobs that are still in work
    can be released. Thread-safe.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._requested = threading.Event()
        self._expired = threading.Event()
        self._lock = threading.Lock()
        self._on_deadline: dict[object, Callable[[], None]] = {}
        self._on_request: list[Callable[[], None]] = []

    def install(self) -> None:
        """Handle SIGTERM and SIGINT. Call once, from the main thread."""
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        # The interpreter writes the signal's number to this pipe at once, whatever the main thread does. A Python
        # handler runs only when the main thread wakes up, and a signal just before its join of the worker threads
        # blocks does not wake it.
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(read_end,), name="signals", daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            # The interpreter writes to the pipe only for signals that have a Python handler.
            signal.signal(number, lambda _number, _frame: None)

    def _watch(self, read_end: int) -> None:
        (first,) = os.read(read_end, 1)
        # A separate thread, so that no listener delays the second signal.
        threading.Thread(target=self.request, args=(signal.Signals(first).name,), daemon=True).start()
        _discard_signals(read_end, SAME_SIGNAL)
        log.info("stopping_gracefully", hint="another signal ends the process at once")
        os.read(read_end, 1)
        # No cleanup: the sender of a second signal wants the process to end. Unsettled jobs are delivered again.
        os._exit(ExitCode.KILLED)

    def request(self, reason: str) -> None:
        """Begin the shutdown; a second call changes nothing."""
        with self._lock:
            if self._requested.is_set():
                return
            self._requested.set()
            listeners = tuple(self._on_request)
        log.info("stopping", reason=reason, grace_seconds=self._grace)
        timer = threading.Timer(self._grace, self._expire)
        timer.daemon = True
        timer.start()
        for listener in listeners:
            listener()

    def on_request(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` when the shutdown begins, or now if it already has."""
        with self._lock:
            if not self._requested.is_set():
                self._on_request.append(listener)
                return
        listener()

    def is_set(self) -> bool:
        """Return whether the shutdown has begun, so that no new work may be taken."""
        return self._requested.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for the shutdown to begin, and return whether it has."""
        return self._requested.wait(seconds)

    def on_deadline(self, key: object, listener: Callable[[], None]) -> None:
        """Call ``listener`` at the deadline, or now if it has passed; ``discard_on_deadline(key)`` removes it."""
        with self._lock:
            if not self._expired.is_set():
                self._on_deadline[key] = listener
                return
        listener()

    def discard_on_deadline(self, key: object) -> None:
        """Remove the listener that ``on_deadline`` registered under ``key``, if there is one."""
        with self._lock:
            self._on_deadline.pop(key, None)

    def _expire(self) -> None:
        with self._lock:
            self._expired.set()
            listeners = tuple(self._on_deadline.values())
        if listeners:
            log.warning("shutdown_timeout", jobs_released=len(listeners))
        for listener in listeners:
            listener()


def _discard_signals(read_end: int, seconds: float) -> None:
    """Read and ignore the signals that arrive within ``seconds``."""
    deadline = time.monotonic() + seconds
    while (remaining := deadline - time.monotonic()) > 0:
        if select.select([read_end], [], [], remaining)[0]:
            os.read(read_end, 1)
