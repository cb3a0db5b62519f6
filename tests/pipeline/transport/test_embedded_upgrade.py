"""Files of release 0.2, whose schema had no version, are upgraded without a loss when they are opened."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.errors import InfrastructureError
from pipeline.transport.embedded.database import Database
from pipeline.transport.embedded.purge import purge
from pipeline.transport.embedded.transport import EmbeddedTransport
from pipeline.transport.protocol import Message

ROOT = Path(__file__).parents[3]
LEASE = 0.4
JOBS = "jobs"

SCHEMA_0_2 = """
PRAGMA journal_mode = WAL;
CREATE TABLE messages (
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    topic     TEXT NOT NULL,
    key       TEXT NOT NULL,
    value     BLOB NOT NULL,
    headers   TEXT NOT NULL,
    published REAL NOT NULL,
    due       REAL NOT NULL DEFAULT 0
);
CREATE INDEX messages_by_topic ON messages (topic, seq);
CREATE INDEX messages_by_key ON messages (topic, key, seq);
CREATE TABLE deliveries (
    grp         TEXT NOT NULL,
    seq         INTEGER NOT NULL,
    owner       TEXT,
    lease_until REAL NOT NULL DEFAULT 0,
    attempts    INTEGER NOT NULL DEFAULT 0,
    settled     INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (grp, seq)
) WITHOUT ROWID;
CREATE TABLE low_water_marks (
    grp   TEXT NOT NULL,
    topic TEXT NOT NULL,
    seq   INTEGER NOT NULL,
    PRIMARY KEY (grp, topic)
) WITHOUT ROWID;
CREATE TABLE topics (
    name      TEXT PRIMARY KEY,
    retention REAL,
    reports   INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO topics VALUES ('jobs', 3600, 0), ('reports', 3600, 1);
"""

OPENER = """
import sys
from pathlib import Path
from pipeline.transport.embedded.database import Database
print("ready", flush=True)
sys.stdin.readline()
Database(Path(sys.argv[1]), durable=True).close()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file in which group ``g`` has settled some messages and ``other`` all, without ``auto_vacuum``."""
    path = tmp_path / "broker.sqlite"
    future = time.time() + 3600
    messages = {  # seq: (key, due)
        1: ("settled", 0.0),
        2: ("held by a member that died", 0.0),
        3: ("settled later", 0.0),
        4: ("released", 0.0),
        5: ("held by a member that died", 0.0),
        6: ("waiting", future),
        7: ("new", -1.0),
        8: ("waiting", 0.0),
    }
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(SCHEMA_0_2)
        connection.executemany(
            "INSERT INTO messages VALUES (?, 'jobs', ?, ?, '{}', ?, ?)",
            [(seq, key, str(seq).encode(), time.time(), due) for seq, (key, due) in messages.items()],
        )
        connection.execute("INSERT INTO low_water_marks VALUES ('g', 'jobs', 2), ('other', 'jobs', 9)")
        connection.execute(
            "INSERT INTO deliveries VALUES "
            "('g', 2, 'dead', 0.5, 1, 0), ('g', 3, NULL, 0, 1, 1), ('g', 4, NULL, 0, 2, 0)"
        )
    return path


@pytest.fixture
def transport(path: Path) -> Iterator[EmbeddedTransport]:
    with closing(EmbeddedTransport(path, lease=LEASE)) as transport:
        yield transport


def remaining(transport: EmbeddedTransport, group: str) -> list[tuple[bytes, int]]:
    """Receive and settle what is ready. Return values and attempts."""
    subscription = transport.subscribe([JOBS], group)
    found = []
    while (delivery := subscription.receive(0.0)) is not None:
        subscription.settle(delivery)
        found.append((delivery.message.value, delivery.attempt))
    return found


def query(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(sql).fetchall()


UNSETTLED = [(b"2", 2), (b"4", 3), (b"5", 1), (b"7", 1)]


def test_groups_continue_where_they_were(transport: EmbeddedTransport, path: Path) -> None:
    assert remaining(transport, "g") == UNSETTLED
    assert remaining(transport, "other") == []
    query(path, "UPDATE deliveries SET due = 1 WHERE seq = 6")
    assert remaining(transport, "g") == [(b"6", 1), (b"8", 1)]


def test_new_group_starts_with_the_oldest_message(transport: EmbeddedTransport) -> None:
    assert [int(value) for value, _ in remaining(transport, "new")] == [1, 2, 3, 4, 5, 7]


def test_file_without_due_times_is_upgraded(path: Path) -> None:
    query(path, "DELETE FROM messages WHERE due > 0")
    query(path, "ALTER TABLE messages DROP COLUMN due")
    with closing(EmbeddedTransport(path, lease=LEASE)) as transport:
        assert remaining(transport, "g") == [*UNSETTLED, (b"8", 1)]


def test_file_can_give_space_back(transport: EmbeddedTransport, path: Path) -> None:
    transport.publish(*[Message("reports", "large", bytes(100_000))] * 20)
    query(path, "UPDATE messages SET published = 0")
    with closing(Database(path, durable=False)) as database:
        purge(database, threading.Event())
    query(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    # For ``g``, the first one is settled, and the third.
    assert query(path, "SELECT seq FROM messages ORDER BY seq") == [(seq,) for seq in (2, 4, 5, 6, 7, 8)]
    assert path.stat().st_size < 200_000


def test_several_processes_open_the_file_at_once(path: Path) -> None:
    command = [sys.executable, "-c", OPENER, str(path)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.communicate("go\n")
    assert [process.returncode for process in processes] == [0, 0, 0]
    with closing(EmbeddedTransport(path, lease=LEASE)) as transport:
        assert remaining(transport, "g") == UNSETTLED
    assert query(path, "PRAGMA integrity_check") == [("ok",)]


def test_file_too_large_to_be_rewritten_works_as_before(path: Path, small_disk: Path) -> None:
    query(path, "UPDATE messages SET value = zeroblob(600000) WHERE seq = 1")
    full = small_disk / path.name
    shutil.copy(path, full)
    with closing(EmbeddedTransport(full, lease=LEASE)) as transport:
        assert remaining(transport, "g") == UNSETTLED
    assert query(full, "PRAGMA auto_vacuum") == [(0,)]


def test_file_of_a_later_release_is_left_alone(path: Path) -> None:
    query(path, "PRAGMA user_version = 1000")
    before = path.read_bytes()
    with pytest.raises(InfrastructureError, match="later release"):
        EmbeddedTransport(path)
    assert path.read_bytes() == before
    assert query(path, "PRAGMA user_version") == [(1000,)]
