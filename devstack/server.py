"""What the real servers have in common: a life cycle, and an environment without the user's secrets."""

import os
from abc import ABC, abstractmethod
from typing import Self

from devstack.process import ServerProcess

_PASSED_ON = ("HOME", "LANG", "LC_ALL", "PATH", "TMPDIR", "TZ")


class LocalServer(ABC):
    """A server on loopback whose data outlive it. To be used from one thread at a time.

    Tools are fetched and data folders made at the first `start`, never by the constructor.
    """

    def __init__(self) -> None:
        self._process: ServerProcess | None = None

    @abstractmethod
    def _prepare(self) -> ServerProcess:
        """Fetch the tools, make the data folder ready, and return the process, not yet started."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it on its old data, if there are any, and return when it answers.

        Raises ToolUnavailableError when it cannot be fetched, ServerStartError when it does not come up.
        """
        if self._process is None:
            self._process = self._prepare()
        self._process.start()

    def stop(self) -> None:
        """End it in good order."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """End it with SIGKILL, as a crash."""
        if self._process is not None:
            self._process.kill()

    def restart(self) -> None:
        """Stop it if it runs, and start it on the same data and ports."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Make it hang: connections are accepted by the kernel, nothing is answered."""
        if self._process is not None:
            self._process.pause()

    def resume(self) -> None:
        """Let it go on after `pause`."""
        if self._process is not None:
            self._process.resume()


def server_environment(**more: str) -> dict[str, str]:
    """What a server needs of this process's environment, and `more`; not its credentials and settings."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | more
