"""The deliveries of one consumer group in the SQLite file: schedule, lease, settle, release.

A message passes through three stages. From the group's position on, it has a row of its topic only. When it is
scheduled, it gets a row of the group, which the indexes find by due time and by lease. When it is settled, it loses
that row. So taking a message costs the same, however many others are waiting, leased or settled.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pipeline.transport.embedded.database import Database

#: Maximum number of messages that one transaction schedules in a topic.
SCHEDULE_SLICE = 1000

# A scheduled message is ready if it is due, has no lease, and no earlier message with its key is unsettled.
# Leases use the machine's monotonic clock, which all its processes share and which nothing adjusts. It restarts with
# the machine, so a lease that ends more than one lease duration from now dates from before the restart and has expired.
# A member's own open deliveries are never ready, however late their leases are renewed.
# Without statistics, SQLite would choose the primary key, whose rows all wait in the same topic.
_READY = (
    (
        "FROM deliveries INDEXED BY deliveries_ready "
        "WHERE grp = :grp AND topic = {topic} AND owner IS NULL AND blocked = 0 AND due = 0",
        "seq",
    ),
    (
        "FROM deliveries INDEXED BY deliveries_ready "
        "WHERE grp = :grp AND topic = {topic} AND owner IS NULL AND blocked = 0 AND due > 0 AND due <= :wall_clock",
        "due, seq",
    ),
    (
        "FROM deliveries INDEXED BY deliveries_leased "
        "WHERE grp = :grp AND topic = {topic} AND owner IS NOT NULL "
        "AND (lease_until < :now OR lease_until > :now + :lease + 1) "
        "AND seq NOT IN (SELECT value FROM json_each(:open))",
        "seq",
    ),
)
_ANY_READY = " OR ".join(f"EXISTS (SELECT 1 {rows.format(topic='p.topic')})" for rows, _ in _READY)
_FIRST_READY = " UNION ALL ".join(
    f"SELECT * FROM (SELECT seq, attempts {rows.format(topic=':topic')} ORDER BY {order} LIMIT 1)"
    for rows, order in _READY
)
_HEAD = f"SELECT seq, attempts FROM ({_FIRST_READY}) ORDER BY seq LIMIT 1"
_WORK = f"""
SELECT p.topic, {_ANY_READY}, EXISTS (SELECT 1 FROM messages m WHERE m.topic = p.topic AND m.seq >= p.seq)
FROM positions p WHERE p.grp = :grp AND p.topic IN (SELECT value FROM json_each(:topics))
"""
_POSITION = "(SELECT seq FROM positions WHERE topic = :topic AND grp = :grp)"
_LAST_OF_SLICE = f"""
SELECT max(seq) FROM (
  SELECT seq FROM messages WHERE topic = :topic AND seq >= {_POSITION} ORDER BY seq LIMIT {SCHEDULE_SLICE})
"""
_SCHEDULE = f"""
INSERT INTO deliveries (topic, seq, grp, key, due)
SELECT topic, seq, :grp, key, max(due, 0.0) FROM messages
WHERE topic = :topic AND seq >= {_POSITION} AND seq <= :last ORDER BY seq
"""
_OWNED = "SELECT seq FROM deliveries INDEXED BY deliveries_leased WHERE grp = ? AND owner = ?"


@dataclass(frozen=True, slots=True)
class ReadyMessage:
    """The next ready message of a topic."""

    seq: int
    attempts: int
    """Earlier deliveries that ended without an outcome."""


@dataclass(frozen=True, slots=True)
class GroupDeliveries:
    """The deliveries of ``group``, as a member with leases of ``lease`` s sees them."""

    group: str
    lease: float

    def join(self, connection: sqlite3.Connection, topics: Sequence[str]) -> None:
        """Give the group a position in each topic, the beginning, unless it has one."""
        connection.executemany(
            "INSERT OR IGNORE INTO positions (topic, grp, seq) VALUES (?, ?, 0)",
            [(topic, self.group) for topic in topics],
        )

    def look(self, database: Database, topics: Sequence[str], open_offsets: Collection[int]) -> tuple[list[str], bool]:
        """Return the topics that have messages to take or to schedule, and whether one has only the latter.

        Takes no lock, so that idle members do not wait for writers. Raises InfrastructureError.
        """
        rows = database.query(_WORK, {**self._clocks(open_offsets), "topics": json.dumps(topics)})
        work = [topic for topic, ready, unscheduled in rows if ready or unscheduled]
        return work, any(unscheduled and not ready for _, ready, unscheduled in rows)

    def head(self, connection: sqlite3.Connection, topic: str, open_offsets: Collection[int]) -> ReadyMessage | None:
        """Return the next ready message of ``topic``. If none is, schedule some messages and look once more.

        A message that is scheduled later never comes before one that is scheduled and ready.
        """
        values = {**self._clocks(open_offsets), "topic": topic}
        row = connection.execute(_HEAD, values).fetchone()
        if row is None and self._schedule(connection, topic):
            row = connection.execute(_HEAD, values).fetchone()
        return None if row is None else ReadyMessage(*row)

    def take(self, connection: sqlite3.Connection, topic: str, seq: int, owner: str) -> tuple[str, bytes, str] | None:
        """Lease a message to ``owner`` and return its key, value and headers; None if its retention has dropped it."""
        row = {"grp": self.group, "topic": topic, "seq": seq}
        message: tuple[str, bytes, str] | None = connection.execute(
            "SELECT key, value, headers FROM messages WHERE seq = ?", (seq,)
        ).fetchone()
        if message is None:
            connection.execute("DELETE FROM deliveries WHERE topic = :topic AND seq = :seq AND grp = :grp", row)
            return None
        connection.execute(
            "UPDATE deliveries SET owner = :owner, lease_until = :until, attempts = attempts + 1 "
            "WHERE topic = :topic AND seq = :seq AND grp = :grp",
            {**row, "owner": owner, "until": time.monotonic() + self.lease},
        )
        return message

    def settle(self, connection: sqlite3.Connection, topic: str, seq: int, owner: str) -> bool:
        """Remove the delivery. Return False if it no longer belongs to ``owner``."""
        return bool(
            connection.execute(
                "DELETE FROM deliveries WHERE topic = ? AND seq = ? AND grp = ? AND owner = ?",
                (topic, seq, self.group, owner),
            ).rowcount
        )

    def release(self, connection: sqlite3.Connection, topic: str, seq: int, owner: str, *, count_attempt: bool) -> None:
        """End the lease of ``owner``, and take back the attempt unless ``count_attempt``."""
        connection.execute(
            "UPDATE deliveries SET owner = NULL, lease_until = 0, attempts = attempts - ? "
            "WHERE topic = ? AND seq = ? AND grp = ? AND owner = ?",
            (0 if count_attempt else 1, topic, seq, self.group, owner),
        )

    def renew(self, connection: sqlite3.Connection, deliveries: Collection[tuple[str, int]], owner: str) -> set[int]:
        """Renew the leases of the deliveries (topic, offset). Return the offsets that ``owner`` still has."""
        until = time.monotonic() + self.lease
        connection.executemany(
            "UPDATE deliveries SET lease_until = ? WHERE topic = ? AND seq = ? AND grp = ? AND owner = ?",
            [(until, topic, seq, self.group, owner) for topic, seq in deliveries],
        )
        rows = connection.execute(_OWNED, (self.group, owner))
        return {seq for (seq,) in rows}

    def _clocks(self, open_offsets: Collection[int]) -> dict[str, object]:
        return {
            "grp": self.group,
            "now": time.monotonic(),
            "wall_clock": time.time(),
            "lease": self.lease,
            "open": json.dumps(list(open_offsets)),
        }

    def _schedule(self, connection: sqlite3.Connection, topic: str) -> bool:
        values: dict[str, object] = {"grp": self.group, "topic": topic}
        (values["last"],) = connection.execute(_LAST_OF_SLICE, values).fetchone()
        if values["last"] is None:
            return False
        connection.execute(_SCHEDULE, values)
        connection.execute("UPDATE positions SET seq = :last + 1 WHERE topic = :topic AND grp = :grp", values)
        return True
