"""Run one server process: start it and wait until it answers, stop, kill, pause and restart it."""

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
from devstack.processes.spawn import pause_group, signal_group, spawn

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_TAIL_LINES = 15
_TAIL_BYTES = 8192
# These ports are below Linux's ephemeral range (32768-60999). A client that keeps trying a closed ephemeral port is
# at some point given that same port as its own and connects to itself; then the server cannot bind to it again.
_PORTS = range(20_000, 32_768)

_reserved_ports: set[int] = set()
_reserving = threading.Lock()


def free_port() -> int:
    """Return a free TCP port on 127.0.0.1; never the same one twice in this process."""
    with _reserving:
        for port in random.sample(_PORTS, len(_PORTS)):
            if port not in _reserved_ports and _can_bind(port):
                _reserved_ports.add(port)
                return port
    raise ServerStartError(f"there is no free TCP port on 127.0.0.1 between {_PORTS.start} and {_PORTS.stop - 1}")


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        # The servers do so too: a port counts as free while connections of an earlier server are in TIME_WAIT.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class ServerProcess:
    """A server command, whose output is appended to `log_file`. Not thread-safe.

    `ready` is polled while the process lives until it returns True. It must return False quickly, and must be sure
    that it talks to this server (another program may listen on the port). `env` is the complete environment. `stdin`
    is written to the process at every start; it may contain secrets, which never belong on a command line. All `ports`
    on 127.0.0.1 must be free before the start: a server with several ports may answer on one before another fails.
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
        """True while the process runs."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def pid(self) -> int | None:
        """The process id; None unless it runs."""
        return self._popen.pid if self._popen is not None and self._popen.poll() is None else None

    @property
    def exit_code(self) -> int | None:
        """The exit status, negative after a signal; None if the process runs or was never started."""
        return None if self._popen is None else self._popen.poll()

    @property
    def ending(self) -> str:
        """Describe how the process ended, as the end of a sentence."""
        code = self.exit_code
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with code {code}"

    def start(self) -> None:
        """Start the process and return when it answers; do nothing if it runs already.

        Raises ServerStartError if a port is taken, or if the process ends early or takes longer than `ready_timeout`
        seconds; in these cases the message includes the end of the log, and the process is killed.
        """
        if self.running:
            return
        taken = [port for port in self._ports if not _can_bind(port)]
        if taken:
            raise ServerStartError(f"{self.name} was not started: another process uses 127.0.0.1:{taken[0]}")
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        with self.log_file.open("ab") as log:
            self._log_start = log.tell()
            self._popen = spawn(self._command, output=log, env=self._env, cwd=self._cwd, stdin=self._stdin)
        try:
            self._await_ready(self._popen, started + self._ready_timeout)
        except BaseException:  # an interrupt must leave no process behind either
            self.kill()
            raise
        logger.info("%s is ready after %.1f s (pid %d)", self.name, time.monotonic() - started, self._popen.pid)

    def stop(self) -> None:
        """Send SIGTERM, and SIGKILL after `stop_grace` seconds; return when the process has ended."""
        if self._popen is None:
            return
        # A paused process receives SIGTERM only when it continues.
        signal_group(self._popen, signal.SIGTERM, signal.SIGCONT)
        try:
            self._popen.wait(self._stop_grace)
        except subprocess.TimeoutExpired:
            logger.warning("killing %s, which did not end within %.0f s of SIGTERM", self.name, self._stop_grace)
            self.kill()

    def kill(self) -> None:
        """Send SIGKILL, as in a crash; return when the process has ended."""
        if self._popen is None:
            return
        signal_group(self._popen, signal.SIGKILL)
        self._popen.wait()

    def pause(self) -> None:
        """Send SIGSTOP: the process keeps its sockets and answers nothing, as a hung server does."""
        if self._popen is not None:
            pause_group(self._popen)

    def resume(self) -> None:
        """Send SIGCONT after `pause`."""
        if self._popen is not None:
            signal_group(self._popen, signal.SIGCONT)

    def restart(self) -> None:
        """Stop the process if it runs, then start the same command again."""
        self.stop()
        self.start()

    def _await_ready(self, popen: subprocess.Popen[bytes], deadline: float) -> None:
        while not (self._ready() and popen.poll() is None):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                reason = f"{self.name} did not answer within {self._ready_timeout:.0f} s"
                raise ServerStartError(f"{reason}; {self.log_tail()}")
            try:
                popen.wait(min(_POLL_SECONDS, remaining))
            except subprocess.TimeoutExpired:
                continue
            raise ServerStartError(f"{self.name} {self.ending} before it answered; {self.log_tail()}")

    def log_tail(self) -> str:
        """Return the last lines that this run, not an earlier one, wrote, as the end of a sentence."""
        with self.log_file.open("rb") as log:
            end = log.seek(0, 2)
            log.seek(max(self._log_start, end - _TAIL_BYTES))
            lines = log.read().decode("utf-8", "replace").splitlines()[-_TAIL_LINES:]
        if not lines:
            return f"its log {self.log_file} is empty"
        return "\n  ".join([f"its log {self.log_file} ends with:", *lines])
