"""One service of ours as a process, with a folder and a disk of its own."""

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

from devstack.spawn import pause_group, signal_group, spawn
from tests.chaos.disk import Disk

#: After SIGTERM, s; longer than SHUTDOWN_GRACE.
STOP_GRACE = 25.0
_PROBE_SECONDS = 2.0
_LOOK_SECONDS = 0.2


class Service:
    """``start`` does not wait until it is ready: in the midst of everything only its jobs tell.

    Whoever does something to it holds ``lock``.
    """

    def __init__(
        self, name: str, module: str, folder: Path, disk: Disk, health: str, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.disk = disk
        self.log_file = folder / "log"
        self.lock = threading.Lock()
        self.wanted = False
        """Whether it should run; if it does not, it has ended by itself."""
        self._command = [sys.executable, "-m", module]
        self._folder = folder
        self._health = health
        self._environment = environment
        self._popen: subprocess.Popen[bytes] | None = None
        self._pids: set[int] = set()

    @property
    def pid(self) -> int | None:
        """While it runs."""
        return self._popen.pid if self._popen is not None and self._popen.poll() is None else None

    @property
    def status(self) -> int | None:
        """With which it has ended."""
        return self._popen.poll() if self._popen is not None else None

    def start(self) -> None:
        """Start the process, unless it runs."""
        self.wanted = True
        if self.pid is None:
            with self.log_file.open("ab") as log:
                self._popen = spawn(self._command, output=log, env=self._environment, cwd=self._folder)
            self._pids.add(self._popen.pid)

    def stop(self) -> None:
        """SIGTERM, and wait for the end. Raises TimeoutError if it does not come; the process is killed then."""
        self.wanted = False
        if self._popen is None:
            return
        signal_group(self._popen, signal.SIGTERM, signal.SIGCONT)
        try:
            self._popen.wait(STOP_GRACE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"{self.name} has not ended {STOP_GRACE:.0f} s after SIGTERM") from None

    def kill(self) -> None:
        """SIGKILL to the process, and to no child of it: that has a process group of its own."""
        self.wanted = False
        if self._popen is not None:
            signal_group(self._popen, signal.SIGKILL)
            self._popen.wait()

    def pause(self) -> None:
        """SIGSTOP: it hangs, and its connections stand."""
        if self._popen is not None:
            pause_group(self._popen)

    def resume(self) -> None:
        """SIGCONT."""
        if self._popen is not None:
            signal_group(self._popen, signal.SIGCONT)

    def await_ready(self, deadline: float) -> None:
        """Wait until it says that it is ready. Raises TimeoutError at ``deadline``, by the monotonic clock."""
        while not self._is_ready():
            if time.monotonic() > deadline or self.pid is None:
                raise TimeoutError(f"{self.name} does not get ready; its log is {self.log_file}")
            time.sleep(_LOOK_SECONDS)

    def child(self) -> psutil.Process | None:
        """The process that owns the model, if there is one."""
        with suppress(psutil.Error):
            children = psutil.Process(self.pid).children() if self.pid else []
            return next((child for child in children if "processor.workers.child" in child.cmdline()), None)
        return None

    def remains(self) -> list[psutil.Process]:
        """What lives on of all that it has started in any of its lives; for when it has been stopped."""
        return [process for process in psutil.process_iter() if self._has_started(process)]

    def _has_started(self, process: psutil.Process) -> bool:
        with suppress(OSError, psutil.Error):
            # Each life has led a session of its own, which nobody leaves by accident.
            return os.getsid(process.pid) in self._pids and process.status() != psutil.STATUS_ZOMBIE
        return False

    def _is_ready(self) -> bool:
        with requests.Session() as session:
            session.trust_env = False  # a proxy has no way to this machine's loopback
            try:
                return session.get(f"{self._health}/ready", timeout=_PROBE_SECONDS).ok
            except requests.RequestException:
                return False
