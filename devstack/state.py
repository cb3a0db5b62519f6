"""Record which process runs the services of this checkout, for `status` and `stop` from another terminal."""

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
#: Longest wait of a start for `status`, which holds the lock for a moment, s.
_LOCK_SECONDS = 0.5
#: Longest stop of the services and then of the servers, and a margin, s.
_STOP_SECONDS = 120.0


@dataclass(frozen=True)
class Running:
    """A stack that runs in the foreground of a terminal."""

    pid: int
    address: str | None
    """The URL of the API; None while the services start."""


class Claim:
    """The exclusive right to run the services, held through a lock on an open file."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.announce(None)

    def announce(self, address: str | None) -> None:
        """Publish the URL of the API."""
        self._file.truncate(0)
        json.dump(asdict(Running(os.getpid(), address)), self._file)
        self._file.flush()


@contextmanager
def held_claim(path: Path, taken: str) -> Iterator[Claim]:
    """Claim the right to run the services. Raises DevstackError with the message `taken` if another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                # The kernel releases the lock when its holder ends for any reason.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DevstackError(taken) from None
                time.sleep(_POLL_SECONDS)
        try:
            yield Claim(file)
        finally:
            file.truncate(0)


def status(path: Path) -> Running | None:
    """Return the process that runs the services; None if there is none."""
    try:
        with path.open("r", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read()
                # The file is empty just before the announcement and just before the end.
                return Running(**json.loads(text)) if text else None
    except FileNotFoundError:
        pass
    return None


def stop(path: Path) -> bool:
    """Stop the services and wait for their end; return False if none ran. Raises DevstackError."""
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
