"""One child process as its parent holds it: its reports, its end."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe

from pipeline.telemetry import get_logger
from processor.protocol import Cancel, ChildSettings, Done, Failed, Ready, Report, Separate

log = get_logger(__name__)

#: How often whoever waits for a report looks up, s: the delay with which a cancel is noticed.
TICK = 0.1
#: How long a child that has closed its pipe, or was killed, may take to be gone, s.
EXIT_GRACE = 2.0


@dataclass(frozen=True, slots=True)
class Ended:
    """The child is gone, reaped, and replaced if it is to be."""

    status: int
    """As ``subprocess`` has it: negative for the signal that ended it."""

    def __str__(self) -> str:
        return f"was ended by signal {-self.status}" if self.status < 0 else f"ended with status {self.status}"


class ChildProcess:
    """One child process. A thread of its own reads its reports, so that no wait depends on what the child does."""

    def __init__(self, settings: ChildSettings, command: Sequence[str], on_end: Callable[[ChildProcess], None]) -> None:
        """Raises OSError if no process can be had."""
        self.ready: Ready | None = None
        self._reports: queue.SimpleQueue[Report | Ended] = queue.SimpleQueue()
        self._on_end = on_end
        self._in_hand: Separate | None = None
        # Closed while it is being written to, a descriptor's number may name another file by the time of the write.
        self._sending, self._cutting = threading.Lock(), threading.Lock()
        self._connection, theirs = Pipe()
        # The same line once more, since a Connection cannot be hung up under its reader.
        self._line = socket.socket(fileno=os.dup(self._connection.fileno()))
        try:
            with theirs:
                self._process = _popen(command, theirs.fileno())
        except BaseException:
            self._hang_up()
            raise
        self.pid = self._process.pid
        self.send(settings)
        self._thread = threading.Thread(target=self._run, name=f"child-{self.pid}", daemon=True)
        self._thread.start()

    def send(self, command: Separate | Cancel | ChildSettings) -> None:
        """Send, unless the child is gone, which whoever waits for its reports finds out."""
        if isinstance(command, Separate):
            self._in_hand = command
        with self._sending, suppress(OSError):
            self._connection.send(command)

    def report(self) -> Report | Ended | None:
        """The next report; None if there was none within a tick."""
        with suppress(queue.Empty):
            return self._reports.get(timeout=TICK)
        return None

    def kill(self) -> None:
        """End the child and wait until it is gone, or at least given up."""
        self._process.kill()
        # A process that waits for a wedged driver outlives a SIGKILL, and would hold its end for ever.
        self._cut()
        self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                self._take(self._connection.recv())
        except (EOFError, OSError):
            pass  # the usual end
        except Exception:  # the boundary: what comes from a child gone mad may raise anything
            log.exception("separation_process_unintelligible", pid=self.pid)
            self._process.kill()
        status = self._reap()
        about = {"task_uuid": self._in_hand.task_uuid} if self._in_hand else {}
        log.info("separation_process_ended", pid=self.pid, status=status, **about)
        self._on_end(self)
        self._reports.put(Ended(status))

    def _take(self, report: Report) -> None:
        if isinstance(report, Ready):
            about = {"model": report.model, "device": report.device, "seconds": report.seconds}
            log.info("separation_process_ready", pid=self.pid, **about)
            self.ready = report
        elif isinstance(report, Done | Failed) and self._in_hand and self._in_hand.job == report.job:
            self._in_hand = None
        self._reports.put(report)

    def _reap(self) -> int:
        self._hang_up()
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(EXIT_GRACE)
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(EXIT_GRACE)
        log.error("separation_process_does_not_die", pid=self.pid)
        return -signal.SIGKILL

    def _cut(self) -> None:
        """End whatever waits at the line, be it to read or to write."""
        with self._cutting, suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)

    def _hang_up(self) -> None:
        self._cut()
        with self._sending, self._cutting:
            self._line.close()
            self._connection.close()


def _popen(command: Sequence[str], descriptor: int) -> subprocess.Popen[bytes]:
    # In a group of its own: signals to the group of the service are for the parent, even before the child ignores them.
    return subprocess.Popen(
        [*command, str(descriptor)], pass_fds=[descriptor], stdin=subprocess.DEVNULL, process_group=0
    )
