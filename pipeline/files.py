"""Local files: written whole or not at all, with the operating system's errors translated."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from pipeline.errors import ErrorCode, InfrastructureError

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def local_errors() -> Iterator[None]:
    """The boundary between the file system's exceptions and ours: InfrastructureError for every OSError."""
    try:
        yield
    except OSError as error:
        raise disk_error(error) from error


def disk_error(error: OSError) -> InfrastructureError:
    """The classified form of a failure to read or write a local file."""
    if error.errno in _NO_ROOM:
        return InfrastructureError("the disk is full", code=ErrorCode.DISK_FULL)
    return InfrastructureError(
        f"a local file cannot be read or written: {system_reason(error)}", code=ErrorCode.STORAGE_UNAVAILABLE
    )


def system_reason(error: OSError) -> str:
    """What the system says about ``error``, without the path that ``str(error)`` has in it."""
    return os.strerror(error.errno) if error.errno else "unknown error"


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises InfrastructureError."""
    with local_errors(), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path beside ``target`` to write to; it becomes ``target`` at the end of the block, or vanishes on an error."""
    partial = target.with_name(f".{uuid4().hex}.partial")
    try:
        yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Wait until the file's content is on the disk."""
    _sync(path, os.O_RDONLY)


def sync_directory(path: Path) -> None:
    """Wait until the folder's entries are on the disk: a new name survives a power cut only after this."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
