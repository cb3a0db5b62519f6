"""The SQLite file of the embedded engine: connections, transactions, errors."""

from __future__ import annotations

import ctypes
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.service.logs import get_logger

log = get_logger(__name__)

#: Maximum wait for another process's transaction, s, unless a client waits for the result.
BUSY_TIMEOUT = 30.0
#: Pause before the next attempt to switch to write-ahead logging, s.
_WAL_PAUSE = 0.01

# Reports may be lost. A topic without a group holds what is still to be read, such as dead letters.
_UNSETTLED = """
SELECT m.topic, m.key, m.value, m.headers, m.published, m.due FROM messages m
WHERE NOT coalesce((SELECT reports FROM topics WHERE name = m.topic), 0) AND (
  NOT EXISTS (SELECT 1 FROM low_water_marks w WHERE w.topic = m.topic) OR EXISTS (
    SELECT 1 FROM low_water_marks w WHERE w.topic = m.topic AND m.seq >= w.seq AND NOT EXISTS (
      SELECT 1 FROM deliveries d WHERE d.grp = w.grp AND d.seq = m.seq AND d.settled)))
ORDER BY m.seq
"""
_COPY = """
INSERT INTO messages (topic, key, value, headers, published, due)
SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE NOT EXISTS (
  SELECT 1 FROM messages WHERE topic = ?1 AND key = ?2 AND value = ?3 AND headers = ?4)
"""


class Database:
    """One SQLite connection, used by one thread at a time. Its exceptions are translated to InfrastructureError.

    If the file at ``path`` is removed or replaced, the next transaction opens the present one, or creates it, and
    copies into it what was not settled in the file before. ``generation`` counts this.
    """

    def __init__(self, path: Path, *, durable: bool, busy_timeout: float = BUSY_TIMEOUT) -> None:
        self._path = path
        self._durable = durable
        self._busy_timeout = busy_timeout
        self._lock = threading.RLock()
        self.generation = 0
        with _translated_errors():
            self._connection = self._open()

    def query(self, sql: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """Return the rows of a statement that only reads. Raises InfrastructureError."""
        with self._locked():
            return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the block in one write transaction. Raises InfrastructureError, with nothing written.

        The wait for other threads and for other processes is limited to the busy timeout in all.
        """
        with self._locked():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite itself rolls back when the disk is full
                    self._connection.execute("ROLLBACK")
                raise
            self._follow_file()  # it may have been removed before the commit

    def close(self) -> None:
        """Close the connection. Raises InfrastructureError."""
        with self._lock, _translated_errors():
            if self._is_current():
                self._connection.close()
            else:
                _abandon(self._connection)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        deadline = time.monotonic() + self._busy_timeout
        if not self._lock.acquire(timeout=self._busy_timeout):
            raise InfrastructureError("the embedded queue is busy", code=ErrorCode.BROKER_UNAVAILABLE)
        try:
            with _translated_errors():
                self._follow_file()
                remaining = max(0, round((deadline - time.monotonic()) * 1000))
                self._connection.execute(f"PRAGMA busy_timeout = {remaining}")
                yield
        finally:
            self._lock.release()

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            self._path, timeout=self._busy_timeout, isolation_level=None, check_same_thread=False
        )
        _set_wal(connection, time.monotonic() + self._busy_timeout)
        # FULL: a commit is on the disk when it returns. NORMAL: a power failure may lose it, but never corrupts it.
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
        schema = resources.files(__package__).joinpath("schema.sql").read_text("utf-8")
        connection.executescript(schema)
        # Migration: files of earlier versions lack this column.
        columns = "SELECT 1 FROM pragma_table_info('messages') WHERE name = 'due'"
        if connection.execute(columns).fetchone() is None:
            with suppress(sqlite3.OperationalError):  # another process has added it meanwhile
                connection.execute("ALTER TABLE messages ADD COLUMN due REAL NOT NULL DEFAULT 0")
        self._identities = {name: _identity(name) for name in self._files}
        return connection

    @property
    def _files(self) -> tuple[Path, ...]:
        return self._path, *(self._path.with_name(self._path.name + suffix) for suffix in ("-wal", "-shm"))

    def _is_current(self) -> bool:
        return _identity(self._path) == self._identities[self._path]

    def _follow_file(self) -> None:
        """Continue with the file at the path of today, if it is not the one that is open."""
        if self._connection.in_transaction or self._is_current():
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._path.with_name(self._path.name + ".lock"), timeout=self._busy_timeout):
            # SQLite would apply the log of the old file to the new one.
            for name in self._files[1:]:
                if _identity(name) is not None and _identity(name) == self._identities[name]:
                    name.unlink()
            before, self._connection = self._connection, self._open()
        copied = _copy_unsettled(before, self._connection)
        _abandon(before)
        self.generation += 1
        log.warning("queue_file_replaced", copied=copied)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _set_wal(connection: sqlite3.Connection, deadline: float) -> None:
    """Switch to write-ahead logging. SQLite does not wait for other processes that do the same, so this does."""
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_WAL_PAUSE)


def _copy_unsettled(source: sqlite3.Connection, target: sqlite3.Connection) -> int:
    """Copy the messages that some group has not settled, unless the target has them. Return their number."""
    topics = source.execute("SELECT name, retention, reports FROM topics").fetchall()
    rows = source.execute(_UNSETTLED).fetchall()
    copied = 0
    target.execute("BEGIN IMMEDIATE")
    try:
        target.executemany("INSERT OR IGNORE INTO topics (name, retention, reports) VALUES (?, ?, ?)", topics)
        for row in rows:
            copied += target.execute(_COPY, row).rowcount
        target.execute("COMMIT")
    except BaseException:
        target.execute("ROLLBACK")
        raise
    return copied


def _abandon(connection: sqlite3.Connection) -> None:
    """Keep a connection to a file that has no name any more from ever being closed.

    On closing, SQLite would delete the write-ahead log by its name, which is that of the new file by now.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Translate exceptions of SQLite and of the file system to InfrastructureError."""
    try:
        yield
    except Timeout as error:
        raise InfrastructureError("the embedded queue is busy", code=ErrorCode.BROKER_UNAVAILABLE) from error
    except OSError as error:
        raise InfrastructureError(
            f"the folder of the embedded queue cannot be used ({error.strerror}): see DATA_DIR",
            code=ErrorCode.BROKER_UNAVAILABLE,
        ) from error
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise InfrastructureError("the disk that holds the queue is full", code=ErrorCode.DISK_FULL) from error
        raise InfrastructureError(
            f"the embedded queue does not answer: {error}", code=ErrorCode.BROKER_UNAVAILABLE
        ) from error
