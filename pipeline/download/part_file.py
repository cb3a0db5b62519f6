"""The temporary file that a download writes until it is complete."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.files import local_errors, sync_directory

#: Errors of file systems that cannot preallocate.
_CANNOT_RESERVE = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV})


def part_path(target: Path) -> Path:
    """Return the path of the file while it is incomplete."""
    return target.with_name(f"{target.name}.part")


def require_room(folder: Path, length: int) -> None:
    """Raise InfrastructureError (``disk_full``) unless ``length`` more bytes fit on the disk."""
    with local_errors():
        free = shutil.disk_usage(folder).free
    if length > free:
        raise InfrastructureError("the disk is full", code=ErrorCode.DISK_FULL)


class PartFile:
    """The file of a download in progress, written at any offset, by many threads if needed. The caller closes it.

    With ``keep``, existing content stays. ``total``: size in bytes; None if unknown.
    Every method raises InfrastructureError: ``disk_full``, or ``storage_unavailable`` for other disk errors.
    """

    def __init__(self, target: Path, total: int | None, *, keep: bool = False) -> None:
        self._target = target
        self._path = part_path(target)
        with local_errors():
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if keep else os.O_TRUNC)
            self._descriptor = os.open(self._path, flags, 0o666)
        self._total = total
        self._reserve_tried = self._reserved = False
        try:
            if total is not None:
                with local_errors():
                    status = os.fstat(self._descriptor)
                    # A sparse file has fewer allocated blocks than bytes; only the rest needs room.
                    require_room(target.parent, total - min(status.st_blocks * 512, total))
                    os.ftruncate(self._descriptor, total)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file, which stays on disk. No thread may be using it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def discard(self) -> None:
        """Close and remove the file, unless it is committed."""
        if self._descriptor >= 0:
            self.close()
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def write(self, offset: int, data: memoryview) -> None:
        """Write ``data`` at ``offset``."""
        with local_errors():
            while data:
                written = os.pwrite(self._descriptor, data, offset)
                data, offset = data[written:], offset + written

    def read(self, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes from ``offset``."""
        with local_errors():
            return os.pread(self._descriptor, size, offset)

    def reserve(self) -> None:
        """Preallocate the whole file once, so that many writers do not fragment it.

        Not for a single writer: tmpfs would clear every page beforehand.
        """
        if self._reserve_tried or self._total is None:
            return
        self._reserve_tried = True
        with local_errors():
            try:
                os.posix_fallocate(self._descriptor, 0, self._total)
                self._reserved = True
            except OSError as error:
                if error.errno not in _CANNOT_RESERVE:
                    raise

    def require_room(self, missing: int) -> None:
        """Raise InfrastructureError (``disk_full``) unless ``missing`` unwritten bytes fit."""
        if not self._reserved:
            require_room(self._target.parent, missing)

    def commit(self, *, durable: bool) -> None:
        """Rename the file to its target and close it. ``durable``: it then survives a power cut."""
        with local_errors():
            if durable:
                os.fsync(self._descriptor)
            os.replace(self._path, self._target)
            if durable:
                sync_directory(self._target.parent)
        self.close()
