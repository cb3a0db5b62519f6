"""One child process as its parent holds it: its reports, its end."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe

from pipeline.service.logs import get_logger
from processor.ipc import (
    Cancel,
    ChildSettings,
    Done,
    Failed,
    JobReport,
    LoadedModels,
    Ready,
    Report,
    Separate,
    SetupFailed,
)
from processor.system.cpu import THREADS
from processor.workers.devices import ANY, Device

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

    def __init__(
        self,
        settings: ChildSettings,
        command: Sequence[str],
        on_end: Callable[[ChildProcess], None],
        *,
        on_ready: Callable[[], None] = lambda: None,
        device: Device = ANY,
    ) -> None:
        """Raises OSError if no process can be had."""
        self.ready: Ready | None = None
        self.models: frozenset[str] = frozenset()
        """Those that are loaded, as far as it has told."""
        self._not_ready: SetupFailed | Ended | None = None
        self._set_up = threading.Event()
        self._reports: queue.SimpleQueue[JobReport | Ended] = queue.SimpleQueue()
        self._on_end, self._on_ready = on_end, on_ready
        self._device = device
        self._in_hand: Separate | None = None
        # Closed while it is being written to, a descriptor's number may name another file by the time of the write.
        self._sending, self._cutting = threading.Lock(), threading.Lock()
        self._connection, theirs = Pipe()
        # The same line once more, since a Connection cannot be hung up under its reader.
        self._line = socket.socket(fileno=os.dup(self._connection.fileno()))
        try:
            with theirs:
                self._process = _popen(command, theirs.fileno(), _environment(settings, device))
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

    def set_up(self) -> Ready | SetupFailed | Ended | None:
        """How its setting up has ended, for all who ask; None if it has not within a tick."""
        self._set_up.wait(TICK)
        return self.ready or self._not_ready

    def report(self) -> JobReport | Ended | None:
        """The next report about a job; None if there was none within a tick."""
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
        log.info("separation_process_ended", pid=self.pid, on=self._device.label, status=status, **about)
        self._on_end(self)
        self._not_ready = self._not_ready or Ended(status)
        self._set_up.set()
        self._reports.put(Ended(status))

    def _take(self, report: Report) -> None:
        match report:
            case Ready():
                self._take_ready(report)
            case SetupFailed():
                self._not_ready = report
                self._set_up.set()
                self._process.kill()  # it ends by itself, unless a wedged driver keeps it
            case LoadedModels():
                self.models = frozenset(report.models)
            case _:
                if isinstance(report, Done | Failed) and self._in_hand and self._in_hand.job == report.job:
                    self._in_hand = None
                self._reports.put(report)

    def _take_ready(self, ready: Ready) -> None:
        about = {"model": ready.model, "device": ready.device, "seconds": ready.seconds}
        log.info("separation_process_ready", pid=self.pid, on=self._device.label, **about)
        if self._device.visible and ready.device == "cpu":
            log.warning("gpu_not_used", pid=self.pid, on=self._device.label, name=self._device.name)
        self.ready = ready
        self._set_up.set()
        self._on_ready()

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


def _environment(settings: ChildSettings, device: Device) -> Mapping[str, str]:
    """The child's own: ours with its device and its part of the cores, unless the operator has set that."""
    threads = {} if settings.threads is None else {THREADS: str(settings.threads)}
    return {**threads, **os.environ, **device.environment}


def _popen(command: Sequence[str], descriptor: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # In a group of its own: signals to the group of the service are for the parent, even before the child ignores them.
    return subprocess.Popen(
        [*command, str(descriptor)],
        pass_fds=[descriptor],
        stdin=subprocess.DEVNULL,
        process_group=0,
        env=environment,
    )
