"""Which stack runs in the foreground of this checkout, for `status` and `stop` from another terminal."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devstack.errors import DevstackError

_POLL_SECONDS = 0.1
_STOP_SECONDS = 90.0


@contextmanager
def held(path: Path, address: str) -> Iterator[None]:
    """Mark this process as the one that runs the stack. Raises DevstackError if there is one already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            # The kernel gives the lock back when its holder dies, however it dies.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DevstackError("the services are running already; ./start_local.sh stop ends them") from None
        file.truncate(0)
        json.dump({"pid": os.getpid(), "address": address}, file)
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def status(path: Path) -> dict[str, object] | None:
    """`pid` and `address` of the stack that runs, None if there is none."""
    try:
        with path.open("r+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found: dict[str, object] = json.loads(file.read() or "{}")
                return found or None
    except FileNotFoundError:
        pass
    return None


def stop(path: Path) -> bool:
    """End the stack that runs and wait until it is gone; False if there was none. Raises DevstackError."""
    found = status(path)
    if found is None:
        return False
    os.kill(int(str(found["pid"])), signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while status(path) is not None:
        if time.monotonic() > deadline:
            raise DevstackError(f"the services have not ended within {_STOP_SECONDS:.0f} s; their logs are in logs/")
        time.sleep(_POLL_SECONDS)
    return True
