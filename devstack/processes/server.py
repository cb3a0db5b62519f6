"""Base of the real servers: their life cycle, and an environment without the user's secrets."""

import os
from abc import ABC, abstractmethod
from typing import Self

from devstack.processes.process import ServerProcess

_PASSED_VARIABLES = ("HOME", "LANG", "LC_ALL", "PATH", "TMPDIR", "TZ")


class LocalServer(ABC):
    """A server on loopback with persistent data. Not thread-safe.

    The first `start` fetches tools and creates data folders; the constructor does neither.
    """

    def __init__(self) -> None:
        self._process: ServerProcess | None = None

    @abstractmethod
    def _prepare(self) -> ServerProcess:
        """Fetch the tools, prepare the data folder, and return the process without starting it."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """True while the server runs."""
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int | None:
        """The server's process id; None unless it runs."""
        return None if self._process is None else self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit status, negative after a signal; None if the server runs or was never started."""
        return None if self._process is None else self._process.exit_code

    @property
    def ending(self) -> str:
        """Describe how the server ended, as the end of a sentence."""
        return "was not started" if self._process is None else self._process.ending

    def log_tail(self) -> str:
        """Return the last lines of the server's log, as the end of a sentence."""
        return "it has no log" if self._process is None else self._process.log_tail()

    def start(self) -> None:
        """Start the server on its existing data, if any, and return when it answers.

        Raises ToolUnavailableError if it cannot be fetched, ServerStartError if it does not start.
        """
        if self._process is None:
            self._process = self._prepare()
        self._process.start()

    def stop(self) -> None:
        """Stop the server gracefully."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """Kill the server with SIGKILL, as in a crash."""
        if self._process is not None:
            self._process.kill()

    def restart(self) -> None:
        """Stop the server if it runs, and start it on the same data and ports."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Make the server hang: the kernel accepts connections, but the server does not answer."""
        if self._process is not None:
            self._process.pause()

    def resume(self) -> None:
        """Continue the server after `pause`."""
        if self._process is not None:
            self._process.resume()


def server_environment(**more: str) -> dict[str, str]:
    """Return the variables of this process that a server needs, and `more`; no credentials or settings."""
    return {name: os.environ[name] for name in _PASSED_VARIABLES if name in os.environ} | more
