"""The files a download is written to until it is complete."""

from __future__ import annotations

import errno
import io
import os
import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.files import local_errors, sync_directory

#: What file systems that cannot reserve say.
_CANNOT_RESERVE = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV})


def part_path(target: Path) -> Path:
    """Where the file lies until it is complete."""
    return target.with_name(f"{target.name}.part")


def require_room(folder: Path, length: int) -> None:
    """Raise InfrastructureError (``disk_full``) unless ``length`` more bytes fit on the disk."""
    with local_errors():
        free = shutil.disk_usage(folder).free
    if length > free:
        raise InfrastructureError("the disk is full", code=ErrorCode.DISK_FULL)


class PartialFile:
    """Written from its start to its end; gone if the block ends without ``commit``.

    Every method raises InfrastructureError: ``disk_full``, or ``storage_unavailable`` for the disk's other troubles.
    """

    def __init__(self, target: Path, *, buffer_bytes: int) -> None:
        self._target = target
        self._path = part_path(target)
        self.bytes = 0
        """Written so far."""
        with local_errors():
            self._file = io.BufferedWriter(io.FileIO(self._path, "w"), buffer_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # closing writes what is left, and may fail as the write before did
            self._file.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def write(self, piece: bytes) -> None:
        """Append ``piece``."""
        with local_errors():
            self._file.write(piece)
        self.bytes += len(piece)

    def commit(self, *, durable: bool) -> None:
        """Give the file its name."""
        with local_errors():
            self._file.flush()
            _place(self._path, self._target, self._file.fileno(), durable=durable)


class ScatteredFile:
    """A file of ``total`` bytes, written by many threads, each where it likes. To be closed.

    With ``keep``, what is there already stays as it is. Raises the same as ``PartialFile``.
    """

    def __init__(self, target: Path, total: int, *, keep: bool) -> None:
        self._target = target
        self._path = part_path(target)
        with local_errors():
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if keep else os.O_TRUNC)
            self._descriptor = os.open(self._path, flags, 0o666)
        self._total = total
        self._asked = self._reserved = False
        try:
            with local_errors():
                status = os.fstat(self._descriptor)
                # What is left to allocate; a file of holes has fewer blocks than bytes.
                require_room(self._target.parent, total - min(status.st_blocks * 512, total))
                os.ftruncate(self._descriptor, total)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file, which stays as it is. No thread may be using it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def discard(self) -> None:
        """Close, and remove the file."""
        self.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def write(self, offset: int, data: memoryview) -> None:
        """Put ``data`` at ``offset``."""
        with local_errors():
            while data:
                written = os.pwrite(self._descriptor, data, offset)
                data, offset = data[written:], offset + written

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``."""
        with local_errors():
            return os.pread(self._descriptor, size, offset)

    def reserve(self) -> None:
        """Have the disk put room for all of the file aside, so that it is not torn to pieces by many writers.

        Not for one that writes it from front to back: a file system in memory would clear every page beforehand.
        """
        if self._asked:
            return
        self._asked = True
        with local_errors():
            try:
                os.posix_fallocate(self._descriptor, 0, self._total)
                self._reserved = True
            except OSError as error:
                if error.errno not in _CANNOT_RESERVE:
                    raise

    def require_room(self, missing: int) -> None:
        """Raise InfrastructureError (``disk_full``) unless ``missing`` bytes that are not written yet fit."""
        if not self._reserved:
            require_room(self._target.parent, missing)

    def commit(self, *, durable: bool) -> None:
        """Give the file its name. ``durable``: it will be there after a power cut."""
        with local_errors():
            _place(self._path, self._target, self._descriptor, durable=durable)
        self.close()


def _place(path: Path, target: Path, descriptor: int, *, durable: bool) -> None:
    if durable:
        os.fsync(descriptor)
    os.replace(path, target)
    if durable:
        sync_directory(target.parent)
