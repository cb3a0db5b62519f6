"""One child process, as its parent sees it: its commands, its reports, and its exit."""

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

from pipeline.service.logs import get_logger
from processor.ipc import (
    COMMANDS,
    REPORTS,
    ChildSettings,
    Command,
    Done,
    Failed,
    JobReport,
    LoadedModels,
    Ready,
    Report,
    Separate,
    SetupFailed,
)
from processor.system.channel import Channel, ProtocolError
from processor.system.child_environment import BASIC, NETWORKS, allowed_environment
from processor.system.cpu import THREADS
from processor.workers.devices import ANY, Device

log = get_logger(__name__)

#: The longest time that a call waits for a report, s. It is also the delay with which a cancel is noticed.
TICK = 0.1
#: The time within which a child that has closed its pipe, or was killed, must exit, s.
EXIT_GRACE = 2.0


@dataclass(frozen=True, slots=True)
class Exited:
    """The child has exited and was reaped; if it is replaced, the replacement has been started."""

    status: int
    """The exit status; as in ``subprocess``, the negative number of the signal that ended the child."""

    def __str__(self) -> str:
        return f"was ended by signal {-self.status}" if self.status < 0 else f"ended with status {self.status}"


class ChildProcess:
    """A running child process. A reader thread receives its reports, so that no call waits for the child itself."""

    def __init__(
        self,
        settings: ChildSettings,
        command: Sequence[str],
        on_exit: Callable[[ChildProcess], None],
        *,
        on_ready: Callable[[], None] = lambda: None,
        device: Device = ANY,
    ) -> None:
        """Start the process. Raises OSError if that fails."""
        self.ready: Ready | None = None
        self.models: frozenset[str] = frozenset()
        """The loaded models that the child has reported."""
        self._setup_failure: SetupFailed | Exited | None = None
        self._setup_finished = threading.Event()
        self._reports: queue.SimpleQueue[JobReport | Exited] = queue.SimpleQueue()
        self._on_exit, self._on_ready = on_exit, on_ready
        self._device = device
        self._current_job: Separate | None = None
        # Without these locks, a descriptor that is closed during a write could by then be the number of another file.
        self._send_lock, self._shutdown_lock = threading.Lock(), threading.Lock()
        parent_end, child_end = Pipe()
        self._channel: Channel[Command, Report] = Channel(parent_end, sends=COMMANDS, receives=REPORTS)
        # A second descriptor of the pipe: a Connection cannot be shut down while a thread reads it.
        self._socket = socket.socket(fileno=os.dup(self._channel.fileno()))
        try:
            with child_end:
                self._process = _spawn(command, child_end.fileno(), settings, device)
        except BaseException:
            self._close_pipe()
            raise
        self.pid = self._process.pid
        self.send(settings)
        self._thread = threading.Thread(target=self._run, name=f"child-{self.pid}", daemon=True)
        self._thread.start()

    def send(self, command: Command) -> None:
        """Send a command. If the child has exited, do nothing: the next report is ``Exited``."""
        if isinstance(command, Separate):
            self._current_job = command
        with self._send_lock, suppress(OSError):
            self._channel.send(command)

    def setup_result(self) -> Ready | SetupFailed | Exited | None:
        """Return the result of the setup, which stays available; None if there is none within a tick."""
        self._setup_finished.wait(TICK)
        return self.ready or self._setup_failure

    def next_report(self) -> JobReport | Exited | None:
        """Return the next report about a job; None if there is none within a tick."""
        with suppress(queue.Empty):
            return self._reports.get(timeout=TICK)
        return None

    def kill(self) -> None:
        """Kill the child, and wait until it has exited or ``EXIT_GRACE`` is over."""
        self._process.kill()
        # A process that waits for a hung driver survives SIGKILL, and would keep its end of the pipe open.
        self._shut_down_pipe()
        self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                self._handle(self._channel.receive())
        except (EOFError, OSError):
            pass  # the child has exited
        except ProtocolError as error:
            log.error("worker_protocol_error", pid=self.pid, error=str(error))
            self._process.kill()
        status = self._reap()
        about = {"task_uuid": self._current_job.task_uuid} if self._current_job else {}
        log.info("worker_exited", pid=self.pid, on=self._device.label, status=status, **about)
        self._on_exit(self)
        self._setup_failure = self._setup_failure or Exited(status)
        self._setup_finished.set()
        self._reports.put(Exited(status))

    def _handle(self, report: Report) -> None:
        match report:
            case Ready():
                about = {"model": report.model, "device": report.device, "seconds": report.seconds}
                log.info("worker_ready", pid=self.pid, on=self._device.label, **about)
                if self._device.visible and report.device == "cpu":
                    log.warning("gpu_not_used", pid=self.pid, on=self._device.label, name=self._device.name)
                self.ready = report
                self._setup_finished.set()
                self._on_ready()
            case SetupFailed():
                self._setup_failure = report
                self._setup_finished.set()
                self._process.kill()  # it exits by itself, unless a hung driver prevents that
            case LoadedModels():
                self.models = frozenset(report.models)
            case _:
                if isinstance(report, Done | Failed) and self._current_job and self._current_job.job == report.job:
                    self._current_job = None
                self._reports.put(report)

    def _reap(self) -> int:
        self._close_pipe()
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(EXIT_GRACE)
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(EXIT_GRACE)
        log.error("worker_kill_failed", pid=self.pid)
        return -signal.SIGKILL

    def _shut_down_pipe(self) -> None:
        """End every read and write that waits for the pipe."""
        with self._shutdown_lock, suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _close_pipe(self) -> None:
        self._shut_down_pipe()
        with self._send_lock, self._shutdown_lock:
            self._socket.close()
            self._channel.close()


def _spawn(command: Sequence[str], descriptor: int, settings: ChildSettings, device: Device) -> subprocess.Popen[bytes]:
    """Start the child with its device and its share of the cores, unless the operator has set the number of threads.

    It inherits the variables of an allowlist only: it runs code that reads files from elsewhere, and no credential.
    """
    threads = {} if settings.threads is None else {THREADS: str(settings.threads)}
    # Its own process group: signals to the group of the service are for the parent, even before the child ignores them.
    return subprocess.Popen(
        [*command, str(descriptor)],
        pass_fds=[descriptor],
        stdin=subprocess.DEVNULL,
        process_group=0,
        env={**threads, **allowed_environment(os.environ, *BASIC, *NETWORKS), **device.environment},
    )
