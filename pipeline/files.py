"""Local files: atomic writes, durable syncs, and translation of the operating system's errors."""

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
    """Translate every OSError of the block to an InfrastructureError."""
    try:
        yield
    except OSError as error:
        raise disk_error(error) from error


def disk_error(error: OSError) -> InfrastructureError:
    """Classify a failure to read or write a local file."""
    if error.errno in _NO_ROOM:
        return InfrastructureError("the disk is full", code=ErrorCode.DISK_FULL)
    return InfrastructureError(
        f"a local file cannot be read or written: {system_reason(error)}", code=ErrorCode.STORAGE_UNAVAILABLE
    )


def system_reason(error: OSError) -> str:
    """Return the system's description of ``error``, without the path that ``str(error)`` contains."""
    return os.strerror(error.errno) if error.errno else "unknown error"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal. Raises InfrastructureError."""
    with local_errors(), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; it replaces ``target`` at the end of the block. Deleted on an error."""
    partial = target.with_name(f".{uuid4().hex}.partial")
    try:
        yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def make_folders(folder: Path) -> None:
    """Create the folder and its parents; those that are created survive a power failure."""
    if folder.is_dir():
        return
    make_folders(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_directory(folder.parent)


def sync_file(path: Path) -> None:
    """Wait until the content of the file is on the disk."""
    _sync(path, os.O_RDONLY)


def sync_directory(path: Path) -> None:
    """Wait until the entries of the folder are on the disk: only then does a new name survive a power failure."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
