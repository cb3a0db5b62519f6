"""The file a download is written to until it is complete."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.files import local_errors


class PartialFile:
    """``target`` with ``.part`` at its end, which ``commit`` renames; gone if the block ends without that.

    Every method raises InfrastructureError: ``disk_full``, or ``storage_unavailable`` for the disk's other troubles.
    """

    def __init__(self, target: Path, *, buffer_bytes: int) -> None:
        self._target = target
        self._path = target.with_name(f"{target.name}.part")
        self._hash = hashlib.sha256()
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

    def require_room(self, length: int) -> None:
        """Raise InfrastructureError (``disk_full``) unless ``length`` more bytes fit on the disk."""
        with local_errors():
            free = shutil.disk_usage(self._target.parent).free
        if length > free:
            raise InfrastructureError("the disk is full", code=ErrorCode.DISK_FULL)

    def write(self, piece: bytes) -> None:
        """Append ``piece``."""
        with local_errors():
            self._file.write(piece)
        self._hash.update(piece)
        self.bytes += len(piece)

    def commit(self) -> str:
        """Give the file its name. Returns its SHA-256 in hexadecimal."""
        with local_errors():
            self._file.flush()
            os.replace(self._path, self._target)
        return self._hash.hexdigest()
