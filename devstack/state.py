"""Record which process runs the services of this checkout, for `status` and `stop` from another terminal."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from devstack.errors import DevstackError

_POLL_SECONDS = 0.1
#: Tries to read a state that is written at the same moment.
_READS = 3
#: Longest wait of a start for `status`, which holds the lock for a moment, s.
_LOCK_SECONDS = 0.5
#: Longest stop of the services and then of the servers, and a margin, s.
_STOP_SECONDS = 120.0


@dataclass(frozen=True)
class Running:
    """A stack that runs in the foreground of a terminal."""

    pid: int
    address: str | None = None
    """The URL of the API; None while the services start."""
    broker: str | None = None
    """The address of a Kafka broker that the stack has started itself."""
    services: tuple[ServiceState, ...] = ()


@dataclass(frozen=True)
class ServiceState:
    """A service or server of a stack."""

    name: str
    state: str
    """running, waiting (for its restart) or starting"""
    pid: int | None
    url: str | None
    """The URL of its health endpoints; None for a server."""
    restarts: int
    last_end: str | None
    """How it ended the last time, such as "was killed by SIGKILL"; None if it never ended."""


class Claim:
    """The exclusive right to run the services, held through a lock on an open file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.announce()

    def announce(
        self, address: str | None = None, broker: str | None = None, services: Iterable[ServiceState] = ()
    ) -> None:
        """Publish the state of the stack. Thread-safe."""
        content = json.dumps(asdict(Running(os.getpid(), address, broker, tuple(services)))).encode()
        with self._lock:
            # One write of a whole line. Bytes after the line, of a longer one, mean nothing.
            os.pwrite(self._file.fileno(), content + b"\n", 0)


@contextmanager
def held_claim(path: Path, taken: str) -> Iterator[Claim]:
    """Claim the right to run the services. Raises DevstackError with the message `taken` if another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0) as file:
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
        file.truncate(0)
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
                return _read(file)
    except FileNotFoundError:
        pass
    return None


def _read(file: IO[str]) -> Running | None:
    """Return what the holder of the lock has announced; None just before its first announcement and its end."""
    for _ in range(_READS):
        file.seek(0)
        try:
            content = json.loads(file.readline())
        except ValueError:  # empty, or read during the write
            time.sleep(_POLL_SECONDS)
            continue
        return Running(**content | {"services": tuple(ServiceState(**state) for state in content["services"])})
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
