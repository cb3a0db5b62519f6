"""The SQLite file of the embedded engine: connections, transactions, errors."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any

from pipeline.errors import ErrorCode, InfrastructureError

#: Maximum wait for another process's transaction, s, unless a client waits for the result.
BUSY_TIMEOUT = 30.0


class Database:
    """One SQLite connection, used by one thread at a time. Its exceptions are translated to InfrastructureError."""

    def __init__(self, path: Path, *, durable: bool, busy_timeout: float = BUSY_TIMEOUT) -> None:
        self._lock = threading.RLock()
        with _translated_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path, timeout=busy_timeout, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA journal_mode = WAL")
            # FULL: a commit is on the disk when it returns. NORMAL: a power failure may lose it, but never corrupts it.
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            schema = resources.files(__package__).joinpath("schema.sql").read_text("utf-8")
            self._connection.executescript(schema)
            # Migration: files of earlier versions lack this column.
            columns = "SELECT 1 FROM pragma_table_info('messages') WHERE name = 'due'"
            if self._connection.execute(columns).fetchone() is None:
                with suppress(sqlite3.OperationalError):  # another process has added it meanwhile
                    self._connection.execute("ALTER TABLE messages ADD COLUMN due REAL NOT NULL DEFAULT 0")

    def query(self, sql: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """Return the rows of a statement that only reads. Raises InfrastructureError."""
        with self._lock, _translated_errors():
            return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the block in one write transaction. Raises InfrastructureError, with nothing written."""
        with self._lock, _translated_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite itself rolls back when the disk is full
                    self._connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the connection. Raises InfrastructureError."""
        with self._lock, _translated_errors():
            self._connection.close()


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Translate exceptions of SQLite and of the file system to InfrastructureError."""
    try:
        yield
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
