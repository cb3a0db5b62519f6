"""The SQLite file of the embedded engine: connections, transactions, errors."""

from __future__ import annotations

import ctypes
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.files import make_folders
from pipeline.service.logs import get_logger

log = get_logger(__name__)

#: Maximum wait for another process's transaction, s, unless a client waits for the result.
BUSY_TIMEOUT = 30.0
#: Pause before the next attempt to switch to write-ahead logging, s.
_WAL_PAUSE = 0.01

#: Version of schema.sql, stored in the file. Files of release 0.2 have none, which reads as 0.
SCHEMA_VERSION = 1
#: Length to which SQLite truncates its write-ahead log after a checkpoint, bytes.
_LOG_LIMIT = 16 << 20

#: Condition: every group of the topic has settled the message ``m``. False for topics without a group.
SETTLED = """
(m.seq < (SELECT min(p.seq) FROM positions p WHERE p.topic = m.topic)
 AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.topic = m.topic AND d.seq = m.seq))
"""
# Reports may be lost. A topic without a group holds what is still to be read, such as dead letters.
_UNSETTLED = f"""
SELECT m.topic, m.key, m.value, m.headers, m.published, m.due FROM messages m
WHERE NOT coalesce((SELECT reports FROM topics WHERE name = m.topic), 0) AND NOT coalesce({SETTLED}, 0)
ORDER BY m.seq
"""
_COPY = """
INSERT INTO messages (topic, key, value, headers, published, due)
SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE NOT EXISTS (
  SELECT 1 FROM messages WHERE topic = ?1 AND published = ?5 AND key = ?2 AND value = ?3 AND headers = ?4)
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
            self._connection = self._open(max(busy_timeout, BUSY_TIMEOUT))  # another process may upgrade the file
            self._enable_vacuum()

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
            with _write_transaction(self._connection):
                yield self._connection
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

    def _open(self, patience: float) -> sqlite3.Connection:
        make_folders(self._path.parent)
        connection = sqlite3.connect(self._path, timeout=patience, isolation_level=None, check_same_thread=False)
        if _auto_vacuum(connection) == 0:  # for a new file, or for VACUUM
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        _set_wal(connection, time.monotonic() + patience)
        # FULL: a commit is on the disk when it returns. NORMAL: a power failure may lose it, but never corrupts it.
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_LIMIT}")
        _create_schema(connection)
        self._identities = {name: _identity(name) for name in self._files}
        return connection

    def _enable_vacuum(self) -> None:
        """Rewrite a file of release 0.2, which cannot give back the space of deleted rows without it.

        Takes seconds for each GB, once. If it fails, the file works as before, and the next start tries again.
        """
        if _auto_vacuum(self._connection) != 0:
            return
        before = self._path.stat().st_size
        try:
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.OperationalError as error:
            log.warning("queue_file_not_rewritten", error=str(error))
        else:
            log.info("queue_file_rewritten", bytes_before=before, bytes_after=self._path.stat().st_size)

    @property
    def _files(self) -> tuple[Path, ...]:
        return self._path, *(self._path.with_name(self._path.name + suffix) for suffix in ("-wal", "-shm"))

    def _is_current(self) -> bool:
        return _identity(self._path) == self._identities[self._path]

    def _follow_file(self) -> None:
        """Continue with the file at the path of today, if it is not the one that is open."""
        if self._connection.in_transaction or self._is_current():
            return
        make_folders(self._path.parent)
        with FileLock(self._path.with_name(self._path.name + ".lock"), timeout=self._busy_timeout):
            # SQLite would apply the log of the old file to the new one.
            for name in self._files[1:]:
                if _identity(name) is not None and _identity(name) == self._identities[name]:
                    name.unlink()
            before, self._connection = self._connection, self._open(self._busy_timeout)
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


@contextmanager
def _write_transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Run the block in a transaction that takes the write lock first. An exception rolls it back."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself rolls back when the disk is full
            connection.execute("ROLLBACK")
        raise


def _create_schema(connection: sqlite3.Connection) -> None:
    """Create the tables in a new file, or upgrade those of an earlier release, in one transaction.

    Raises InfrastructureError if a later release has written the file.
    """
    if _schema_version(connection) == SCHEMA_VERSION:
        return
    with _write_transaction(connection):
        version = _schema_version(connection)  # another process may have upgraded the file meanwhile
        if version > SCHEMA_VERSION:
            raise InfrastructureError(
                "a later release has upgraded the file of the embedded queue (broker.sqlite in DATA_DIR)",
                code=ErrorCode.BROKER_UNAVAILABLE,
            )
        if version == SCHEMA_VERSION:
            return
        earlier = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'low_water_marks'").fetchone()
        if earlier is not None:
            _rename_earlier_tables(connection)
        _run_script(connection, "schema.sql")
        if earlier is not None:
            _run_script(connection, "upgrade.sql")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _auto_vacuum(connection: sqlite3.Connection) -> int:
    (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone()
    return int(mode)


def _schema_version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _rename_earlier_tables(connection: sqlite3.Connection) -> None:
    for table in ("deliveries", "low_water_marks"):
        connection.execute(f"ALTER TABLE {table} RENAME TO earlier_{table}")
    if connection.execute("SELECT 1 FROM pragma_table_info('messages') WHERE name = 'due'").fetchone() is None:
        connection.execute("ALTER TABLE messages ADD COLUMN due REAL NOT NULL DEFAULT 0")


def _run_script(connection: sqlite3.Connection, name: str) -> None:
    """Run a file of SQL statements within the current transaction, which ``executescript`` would commit."""
    statement = ""
    for line in resources.files(__package__).joinpath(name).read_text("utf-8").splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""


def _copy_unsettled(source: sqlite3.Connection, target: sqlite3.Connection) -> int:
    """Copy the messages that some group has not settled, unless the target has them. Return their number."""
    topics = source.execute("SELECT name, retention, reports FROM topics").fetchall()
    rows = source.execute(_UNSETTLED).fetchall()
    with _write_transaction(target):
        target.executemany("INSERT OR IGNORE INTO topics (name, retention, reports) VALUES (?, ?, ?)", topics)
        return sum(target.execute(_COPY, row).rowcount for row in rows)


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
