"""A SQLite file beside a partial download that records which bytes are on the disk, and outlives the process.

A piece is recorded after its bytes are written, together with their hash, and trusted later only if the bytes still
have that hash: after a power cut either of the two files may be older than the other. The write-ahead log never loses
the file as a whole. The exclusive lock keeps two processes from working on one file. It also avoids shared memory,
which network file systems lack.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final

from pipeline.download.parallel.range_allocator import ByteRange
from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.files import local_errors
from pipeline.service.logs import get_logger

log = get_logger(__name__)

_VERSION: Final = 1
_DONE: Final = "done"
_BAD: Final = "bad"

_SCHEMA = f"""
BEGIN;
DROP TABLE IF EXISTS download;
DROP TABLE IF EXISTS piece;
CREATE TABLE download (url TEXT NOT NULL, total INTEGER NOT NULL, etag TEXT, modified TEXT, checksum TEXT);
CREATE TABLE piece (
    start INTEGER PRIMARY KEY, end INTEGER NOT NULL, status TEXT NOT NULL, etag TEXT, hash INTEGER NOT NULL
);
PRAGMA user_version = {_VERSION};
COMMIT;
"""


@dataclass(frozen=True, slots=True)
class Identity:
    """The file that the recorded pieces belong to."""

    url: str
    """SHA-256 of the origin's URL, since the URL itself may contain a secret."""
    total: int
    etag: str | None
    modified: str | None
    checksum: str | None
    """Algorithm and hexadecimal digest of the whole file."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A range of written bytes."""

    span: ByteRange
    etag: str | None
    hash: int
    """CRC-32."""


class EntryBuilder:
    """Turns bytes written in ascending order into journal entries that do not cross a piece boundary."""

    def __init__(self, start: int, piece_bytes: int | None, etag: str | None) -> None:
        self._start = self._position = start
        self._piece_bytes = piece_bytes
        self._etag = etag
        self._crc = 0

    def add(self, position: int, data: memoryview) -> Iterator[Entry]:
        """Record that ``data`` is written at ``position``. Yield the entries completed by it."""
        if self._piece_bytes is None:
            return
        if position != self._position:
            yield from self.finish()
            self._start = self._position = position
        while data:
            boundary = (self._position // self._piece_bytes + 1) * self._piece_bytes
            head, data = data[: boundary - self._position], data[boundary - self._position :]
            self._crc = zlib.crc32(head, self._crc)
            self._position += len(head)
            if self._position == boundary:
                yield from self.finish()

    def finish(self) -> Iterator[Entry]:
        """Yield the entry of an incomplete piece, if there is one."""
        if self._position > self._start:
            yield Entry(ByteRange(self._start, self._position), self._etag, self._crc)
        self._start, self._crc = self._position, 0


class Journal:
    """The journal at ``path``; an unreadable one is replaced. Used by one thread.

    Every method raises InfrastructureError: ``disk_full`` or ``storage_unavailable``, the latter also while another
    process uses the journal.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _translated_errors():
            try:
                self._database = _open(path)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise  # busy, full or unreadable: the content is not the problem
                log.warning("download_journal_unreadable", error=error.sqlite_errorname)
                self._unlink()
                self._database = _open(path)

    def close(self) -> None:
        """Close the file, which stays on disk."""
        with suppress(sqlite3.Error):
            self._database.close()

    def remove(self) -> None:
        """Close and remove the file."""
        self.close()
        self._unlink()

    def identity(self) -> Identity | None:
        """Return the identity of the recorded download; None if there is none."""
        with _translated_errors():
            row = self._database.execute("SELECT url, total, etag, modified, checksum FROM download").fetchone()
        return Identity(*row) if row else None

    def clear(self) -> None:
        """Delete all records."""
        with self._transaction() as database:
            database.execute("DELETE FROM piece")
            database.execute("DELETE FROM download")

    def begin(self, identity: Identity) -> None:
        """Record the identity of a new download in an empty journal."""
        with self._transaction() as database:
            database.execute("INSERT INTO download VALUES (?, ?, ?, ?, ?)", astuple(identity))

    def entries(self) -> list[Entry]:
        """Return all valid entries in order."""
        query = "SELECT start, end, etag, hash FROM piece WHERE status = ? ORDER BY start"
        with _translated_errors():
            rows = self._database.execute(query, (_DONE,)).fetchall()
        return [Entry(ByteRange(start, end), etag, crc) for start, end, etag, crc in rows]

    def add(self, entries: Iterable[Entry]) -> None:
        """Record ``entries``, whose bytes are written already."""
        rows = [(*entry.span, _DONE, entry.etag, entry.hash) for entry in entries]
        with self._transaction() as database:
            database.executemany("INSERT OR REPLACE INTO piece VALUES (?, ?, ?, ?, ?)", rows)

    def revoke(self, span: ByteRange) -> None:
        """Invalidate every entry that overlaps ``span``."""
        with self._transaction() as database:
            database.execute("UPDATE piece SET status = ? WHERE start < ? AND end > ?", (_BAD, span.end, span.start))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _translated_errors(), self._database:
            self._database.execute("BEGIN")
            yield self._database

    def _unlink(self) -> None:
        with local_errors():
            for suffix in ("", "-wal", "-shm", "-journal"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("BEGIN EXCLUSIVE")  # takes the lock, which this locking mode then keeps
        database.execute("COMMIT")
        if database.execute("PRAGMA user_version").fetchone() != (_VERSION,):
            database.executescript(_SCHEMA)
        database.execute("SELECT 1 FROM download, piece").fetchone()
    except BaseException:
        database.close()
        raise
    return database


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        if name == "SQLITE_FULL":
            raise InfrastructureError("the disk is full", code=ErrorCode.DISK_FULL) from error
        problem = "is in use by another process" if name == "SQLITE_BUSY" else "cannot be read or written"
        raise InfrastructureError(f"the journal of a download {problem}", code=ErrorCode.STORAGE_UNAVAILABLE) from error
