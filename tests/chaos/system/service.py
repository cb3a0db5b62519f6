"""One service as a process, with its own folder and disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil
import requests

from devstack.processes.spawn import pause_group, signal_group, spawn
from tests.chaos.system.disk import Disk

#: Maximum time to exit after SIGTERM, s; longer than SHUTDOWN_GRACE.
STOP_GRACE = 25.0
_PROBE_SECONDS = 2.0
_LOOK_SECONDS = 0.2


class Service:
    """A service process. ``start`` does not wait until it is ready; its progress shows this.

    Callers that start, stop, kill or pause it hold ``lock``.
    """

    def __init__(
        self, name: str, module: str, folder: Path, disk: Disk, health: str, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.disk = disk
        self.log_file = folder / "log"
        self.lock = threading.Lock()
        self.should_run = False
        """True if it should run; if it does not, it has exited unexpectedly."""
        self._command = [sys.executable, "-m", module]
        self._folder = folder
        self._health = health
        self._environment = environment
        self._popen: subprocess.Popen[bytes] | None = None
        self._pids: set[int] = set()

    @property
    def pid(self) -> int | None:
        """The process id; None if it does not run."""
        return self._popen.pid if self._popen is not None and self._popen.poll() is None else None

    @property
    def status(self) -> int | None:
        """The exit status; None if it runs or was never started."""
        return self._popen.poll() if self._popen is not None else None

    def start(self) -> None:
        """Start the process unless it runs."""
        self.should_run = True
        if self.pid is None:
            with self.log_file.open("ab") as log:
                self._popen = spawn(self._command, output=log, env=self._environment, cwd=self._folder)
            self._pids.add(self._popen.pid)

    def stop(self) -> None:
        """Send SIGTERM and wait for the exit. Raises TimeoutError, after killing the process, if it does not exit."""
        self.should_run = False
        if self._popen is None:
            return
        signal_group(self._popen, signal.SIGTERM, signal.SIGCONT)
        try:
            self._popen.wait(STOP_GRACE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"{self.name} has not exited {STOP_GRACE:.0f} s after SIGTERM") from None

    def kill(self) -> None:
        """Send SIGKILL to the process, but not to its child, which has its own process group."""
        self.should_run = False
        if self._popen is not None:
            signal_group(self._popen, signal.SIGKILL)
            self._popen.wait()

    def pause(self) -> None:
        """Send SIGSTOP: the process hangs, and its connections stay open."""
        if self._popen is not None:
            pause_group(self._popen)

    def resume(self) -> None:
        """Send SIGCONT."""
        if self._popen is not None:
            signal_group(self._popen, signal.SIGCONT)

    def await_ready(self, deadline: float) -> None:
        """Wait until ``/ready`` succeeds. Raises TimeoutError at ``deadline`` (monotonic clock)."""
        while not self._is_ready():
            if time.monotonic() > deadline or self.pid is None:
                raise TimeoutError(f"{self.name} is not ready; its log is {self.log_file}")
            time.sleep(_LOOK_SECONDS)

    def child(self) -> psutil.Process | None:
        """Return the child process that owns the model, if there is one."""
        with suppress(psutil.Error):
            children = psutil.Process(self.pid).children() if self.pid else []
            return next((child for child in children if "processor.workers.child" in child.cmdline()), None)
        return None

    def remaining_processes(self) -> list[psutil.Process]:
        """Return the running processes of all starts of the service. Call it after the service has been stopped."""
        return [process for process in psutil.process_iter() if self._was_started_here(process)]

    def _was_started_here(self, process: psutil.Process) -> bool:
        with suppress(OSError, psutil.Error):
            # Each start creates its own session, which its processes do not leave.
            return os.getsid(process.pid) in self._pids and process.status() != psutil.STATUS_ZOMBIE
        return False

    def _is_ready(self) -> bool:
        with requests.Session() as session:
            session.trust_env = False  # a proxy cannot reach this machine's loopback
            try:
                return session.get(f"{self._health}/ready", timeout=_PROBE_SECONDS).ok
            except requests.RequestException:
                return False
