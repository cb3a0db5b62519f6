"""Locks between processes that share a folder. They die with their holder, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked_folder(path: Path, *, on_wait: Callable[[], object] | None = None, wait: bool = True) -> Iterator[None]:
    """Hold the lock that the file ``path`` stands for, in a folder that is made if need be.

    The file is gone once nobody holds the lock. ``on_wait`` is called if another process has it. Raises
    BlockingIOError instead of waiting if ``wait`` is false, and OSError.
    """
    descriptor = _taken(path, on_wait, wait)
    try:
        yield
    finally:
        # While it is still held: whoever waits for the file that is gone finds that out, and takes the next one.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _taken(path: Path, on_wait: Callable[[], object] | None, wait: bool) -> int:
    while True:
        path.parent.mkdir(exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # its folder has just been tidied away
            continue
        try:
            _lock(descriptor, on_wait, wait)
            if _is(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, on_wait: Callable[[], object] | None, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            raise
        if on_wait:
            on_wait()
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
