"""What of a file is on the disk already, told in a SQLite file beside it that outlives the process.

A piece is entered after its bytes are written, together with their hash, and believed again only if the bytes still
have that hash: after a power cut either of the two files may be older than the other. The write-ahead log never loses
the file as a whole. The exclusive lock keeps two processes from working on one file, and does without shared memory,
which network file systems lack.
"""

from __future__ import annotations

import sqlite3
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
    """What the pieces are pieces of."""

    url: str
    """SHA-256 of the origin's URL, which itself may hold a secret."""
    total: int
    etag: str | None
    modified: str | None
    checksum: str | None
    """Algorithm and hexadecimal digest of the whole file."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Bytes that were written."""

    span: ByteRange
    etag: str | None
    hash: int
    """CRC-32."""


class Journal:
    """The journal at ``path``; an unreadable one is begun anew. Used by one thread.

    Every method raises InfrastructureError: ``disk_full`` or ``storage_unavailable``, the latter also while another
    process has the journal.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _translated():
            try:
                self._database = _open(path)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise  # busy, full, not readable: that is not the file's content
                log.warning("download_journal_unreadable", error=error.sqlite_errorname)
                self._unlink()
                self._database = _open(path)

    def close(self) -> None:
        """Let go of the file, which stays."""
        with suppress(sqlite3.Error):
            self._database.close()

    def remove(self) -> None:
        """Close, and remove the file."""
        self.close()
        self._unlink()

    def identity(self) -> Identity | None:
        """Of what was begun; None if nothing was."""
        with _translated():
            row = self._database.execute("SELECT url, total, etag, modified, checksum FROM download").fetchone()
        return Identity(*row) if row else None

    def clear(self) -> None:
        """Forget everything."""
        with _translated(), self._transaction() as database:
            database.execute("DELETE FROM piece")
            database.execute("DELETE FROM download")

    def begin(self, identity: Identity) -> None:
        """This is what is being fetched now. The journal is empty."""
        with _translated(), self._transaction() as database:
            database.execute("INSERT INTO download VALUES (?, ?, ?, ?, ?)", astuple(identity))

    def entries(self) -> list[Entry]:
        """All that is claimed, in order."""
        query = "SELECT start, end, etag, hash FROM piece WHERE status = ? ORDER BY start"
        with _translated():
            rows = self._database.execute(query, (_DONE,)).fetchall()
        return [Entry(ByteRange(start, end), etag, crc) for start, end, etag, crc in rows]

    def add(self, entries: Iterable[Entry]) -> None:
        """Claim ``entries``, whose bytes are written."""
        rows = [(*entry.span, _DONE, entry.etag, entry.hash) for entry in entries]
        with _translated(), self._transaction() as database:
            database.executemany("INSERT OR REPLACE INTO piece VALUES (?, ?, ?, ?, ?)", rows)

    def revoke(self, span: ByteRange) -> None:
        """Claim nothing any more that has a byte of ``span`` in it: it turned out to be wrong."""
        with _translated(), self._transaction() as database:
            database.execute("UPDATE piece SET status = ? WHERE start < ? AND end > ?", (_BAD, span.end, span.start))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._database:
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
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        if name == "SQLITE_FULL":
            raise InfrastructureError("the disk is full", code=ErrorCode.DISK_FULL) from error
        what = "is in use by another process" if name == "SQLITE_BUSY" else "cannot be read or written"
        raise InfrastructureError(f"the journal of a download {what}", code=ErrorCode.STORAGE_UNAVAILABLE) from error
