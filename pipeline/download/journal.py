"""A file beside a partial download that records which bytes are on the disk, and outlives the process.

One JSON value per line: the identity of the download, then each written piece with the CRC-32 of its bytes. A piece is
recorded after its bytes are written, and trusted later only if they still have that CRC: after a power cut either of
the two files may be older than the other. A line that was cut off ends the journal. The lock keeps two processes from
working on one file.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.files import local_errors


@dataclass(frozen=True, slots=True)
class Identity:
    """The file that the recorded pieces belong to."""

    url: str
    """SHA-256 of the origin's URL, since the URL itself may contain a secret."""
    total: int
    """Size in bytes."""
    etag: str | None
    modified: str | None
    checksum: str | None
    """Algorithm and hexadecimal digest of the whole file."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """The written bytes ``start`` to ``end`` (exclusive)."""

    start: int
    end: int
    crc: int


class Journal:
    """The journal at ``path``, locked until it is closed. Thread-safe.

    Every method raises InfrastructureError: ``disk_full`` or ``storage_unavailable``, the latter also while another
    process uses the journal.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with local_errors():
            self._descriptor = _open_locked(path)

    def close(self) -> None:
        """Close the file, which stays on disk."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Remove and close the file."""
        with local_errors():
            self._path.unlink(missing_ok=True)
        self.close()

    def load(self) -> tuple[Identity | None, list[JournalEntry]]:
        """Return the recorded download and its pieces; None and no pieces if there is none, or if it is unreadable."""
        with local_errors(), open(self._descriptor, "rb", closefd=False) as file:
            file.seek(0)
            lines = file.read().split(b"\n")[:-1]
        identity, pieces = None, []
        with suppress(ValueError, TypeError, IndexError):  # the last line was cut off, or the content is another one
            identity = Identity(**json.loads(lines[0]))
            for line in lines[1:]:
                pieces.append(JournalEntry(*json.loads(line)))
        return identity, pieces

    def write(self, identity: Identity | None, pieces: Iterable[JournalEntry] = ()) -> None:
        """Replace the content. None: the journal records no download."""
        with local_errors():
            os.ftruncate(self._descriptor, 0)
            if identity:
                self._append(asdict(identity), *map(astuple, pieces))

    def add(self, piece: JournalEntry) -> None:
        """Record ``piece``, whose bytes are written already."""
        with local_errors():
            self._append(astuple(piece))

    def _append(self, *values: object) -> None:
        text = "".join(f"{json.dumps(value)}\n" for value in values)
        os.write(self._descriptor, text.encode())  # one call, so that the lines of two threads do not mix


class PieceRecorder:
    """Records bytes written in ascending order as pieces of at least ``piece_bytes``; without ``journal``: nothing."""

    def __init__(self, journal: Journal | None, start: int, piece_bytes: int) -> None:
        self._journal = journal
        self._start = self._end = start
        self._piece_bytes = piece_bytes
        self._crc = 0

    def add(self, position: int, data: memoryview) -> None:
        """Record that ``data`` is written at ``position``."""
        if self._journal is None:
            return
        if position != self._end:
            self.finish()
            self._start = self._end = position
        self._crc = zlib.crc32(data, self._crc)
        self._end += len(data)
        if self._end - self._start >= self._piece_bytes:
            self.finish()

    def finish(self) -> None:
        """Record the bytes since the last piece."""
        if self._journal and self._end > self._start:
            self._journal.add(JournalEntry(self._start, self._end, self._crc))
        self._start, self._crc = self._end, 0


def _open_locked(path: Path) -> int:
    """Return a descriptor of the file at ``path``, with the lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise InfrastructureError(
                "the journal of a download is in use by another process", code=ErrorCode.STORAGE_UNAVAILABLE
            ) from None
        os.close(descriptor)  # the process that had the lock has removed the file
