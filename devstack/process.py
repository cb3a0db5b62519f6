"""One server process: started, awaited until it answers, stopped, killed, paused, started again."""

import logging
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from devstack.errors import ServerStartError
from devstack.spawn import pause_group, signal_group, spawn

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_TAIL_LINES = 15
_TAIL_BYTES = 8192
# Below Linux's ephemeral range (32768-60999), on purpose: a client that keeps trying an ephemeral port nobody
# listens on is in time given that very port as its own and connects to itself, and then the server it waits for
# cannot bind again.
_PORTS = range(20_000, 32_768)

_handed_out: set[int] = set()
_handing_out = threading.Lock()


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on; never the same one twice in the life of this process."""
    with _handing_out:
        for port in random.sample(_PORTS, len(_PORTS)):
            if port not in _handed_out and _can_bind(port):
                _handed_out.add(port)
                return port
    raise ServerStartError(f"no free TCP port is left on 127.0.0.1 between {_PORTS.start} and {_PORTS.stop - 1}")


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do: a port is free although connections of an earlier server are still in TIME_WAIT.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class ServerProcess:
    """A command that is a server; its output is appended to `log_file`. To be used from one thread at a time.

    `ready` is asked again and again, while the process lives, until it says yes: it must be quick to say no, and
    must be sure that it speaks to this very server (a stranger may listen on the port). `env` is the whole
    environment, `stdin` is fed on every start (a place for secrets, which never belong on a command line). `ports` on
    127.0.0.1 must be free: a server of several may answer on one before it finds that it cannot have another.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log_file: Path,
        ready: Callable[[], bool],
        ready_timeout: float = 120.0,
        stop_grace: float = 30.0,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: bytes | None = None,
        ports: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.log_file = log_file
        self._command = list(command)
        self._ready = ready
        self._ready_timeout = ready_timeout
        self._stop_grace = stop_grace
        self._env = env
        self._cwd = cwd
        self._stdin = stdin
        self._ports = tuple(ports)
        self._popen: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._popen.pid if self._popen is not None and self._popen.poll() is None else None

    def start(self) -> None:
        """Start it and return when it answers; nothing happens if it runs already.

        Raises ServerStartError, with the end of the log, when it ends before that or takes longer than
        `ready_timeout` seconds; the process is then gone. Without starting it, when one of its ports is taken.
        """
        if self.running:
            return
        taken = [port for port in self._ports if not _can_bind(port)]
        if taken:
            raise ServerStartError(f"{self.name} was not started: another process has 127.0.0.1:{taken[0]}")
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with self.log_file.open("ab") as log:
            self._log_start = log.tell()
            self._popen = spawn(self._command, output=log, env=self._env, cwd=self._cwd, stdin=self._stdin)
        try:
            self._await_ready(self._popen, began + self._ready_timeout)
        except BaseException:  # an interrupt too must leave nothing behind
            self.kill()
            raise
        logger.info("%s is ready after %.1f s (pid %d)", self.name, time.monotonic() - began, self._popen.pid)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL if it has not ended after `stop_grace` seconds; returns when it is gone."""
        if self._popen is None:
            return
        # A paused process hears SIGTERM only once it is continued.
        signal_group(self._popen, signal.SIGTERM, signal.SIGCONT)
        try:
            self._popen.wait(self._stop_grace)
        except subprocess.TimeoutExpired:
            logger.warning("%s did not end within %.0f s of SIGTERM and is killed", self.name, self._stop_grace)
            self.kill()

    def kill(self) -> None:
        """SIGKILL, as a crash; returns when it is gone."""
        if self._popen is None:
            return
        signal_group(self._popen, signal.SIGKILL)
        self._popen.wait()

    def pause(self) -> None:
        """SIGSTOP: it keeps its sockets and answers nothing, as a hung server does."""
        if self._popen is not None:
            pause_group(self._popen)

    def resume(self) -> None:
        """SIGCONT after `pause`."""
        if self._popen is not None:
            signal_group(self._popen, signal.SIGCONT)

    def restart(self) -> None:
        """Stop it if it runs, then start the same command again."""
        self.stop()
        self.start()

    def _await_ready(self, popen: subprocess.Popen[bytes], deadline: float) -> None:
        while not (self._ready() and popen.poll() is None):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                reason = f"{self.name} did not answer within {self._ready_timeout:.0f} s"
                raise ServerStartError(f"{reason}; {self._log_tail()}")
            try:
                code = popen.wait(min(_POLL_SECONDS, remaining))
            except subprocess.TimeoutExpired:
                continue
            raise ServerStartError(f"{self.name} ended with code {code} before it answered; {self._log_tail()}")

    def _log_tail(self) -> str:
        """The end of what this run (not an earlier one) wrote."""
        with self.log_file.open("rb") as log:
            end = log.seek(0, 2)
            log.seek(max(self._log_start, end - _TAIL_BYTES))
            lines = log.read().decode("utf-8", "replace").splitlines()[-_TAIL_LINES:]
        if not lines:
            return f"its log {self.log_file} says nothing"
        return "\n  ".join([f"its log {self.log_file} ends with:", *lines])
