"""What runs in the foreground of this checkout, for `status` and `stop` from another terminal."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from devstack.errors import DevstackError

_POLL_SECONDS = 0.1
#: How long a look by `status` may hold up a start, s.
_LOOK_SECONDS = 0.5
#: The services' and the servers' time to stop, one after the other, and a little, s.
_STOP_SECONDS = 120.0


@dataclass(frozen=True)
class Running:
    """A stack in the foreground of some terminal."""

    pid: int
    address: str | None
    """Where the API listens; None while the services are being started."""


class Claim:
    """The right to be the only one, kept by an open file."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.announce(None)

    def announce(self, address: str | None) -> None:
        """Let others know where the API listens."""
        self._file.truncate(0)
        json.dump(asdict(Running(os.getpid(), address)), self._file)
        self._file.flush()


@contextmanager
def held_claim(path: Path, taken: str) -> Iterator[Claim]:
    """Mark this process as the one that runs. Raises DevstackError, saying `taken`, if there is one already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        _lock(file, taken)
        try:
            yield Claim(file)
        finally:
            file.truncate(0)


def status(path: Path) -> Running | None:
    """What runs; None if nothing does."""
    try:
        with path.open("r", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _parsed(file.read())
    except FileNotFoundError:
        pass
    return None


def stop(path: Path) -> bool:
    """End what runs and wait until it is gone; False if nothing did. Raises DevstackError."""
    found = status(path)
    if found is None:
        return False
    os.kill(found.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while (now := status(path)) is not None and now.pid == found.pid:
        if time.monotonic() > deadline:
            raise DevstackError(f"the services have not ended within {_STOP_SECONDS:.0f} s; their logs are in logs/")
        time.sleep(_POLL_SECONDS)
    return True


def _lock(file: IO[str], taken: str) -> None:
    # The kernel gives the lock back when its holder dies, however it dies.
    deadline = time.monotonic() + _LOOK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise DevstackError(taken) from None
            time.sleep(_POLL_SECONDS)
        else:
            return


def _parsed(text: str) -> Running | None:
    """What a claim has announced; None while it is just about to, or has just ended."""
    return Running(**json.loads(text)) if text else None
