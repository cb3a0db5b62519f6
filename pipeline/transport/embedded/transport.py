"""The embedded engine: a durable broker in one SQLite file, for one machine, without a server.

Members of a group compete for messages. A message in progress is leased. Each member renews its leases from a
background thread, so a job may run for hours. The lease of a dead member expires and its message is delivered again.
Settling writes the outputs and the new low-water mark in one transaction.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.cancellation import CancelToken
from pipeline.errors import CancelledError, ErrorCode, InfrastructureError, PipelineError
from pipeline.service.logs import get_logger
from pipeline.transport.embedded.database import BUSY_TIMEOUT, Database
from pipeline.transport.fair_queue import StrideScheduler
from pipeline.transport.protocol import (
    Delivery,
    Message,
    StoredMessage,
    Topic,
    blocked_by_isolation,
    check_message_sizes,
    due_at,
)

log = get_logger(__name__)

#: Interval at which an idle member looks for messages that another process published, s.
POLL_INTERVAL = 0.05
#: Maximum wait for the write of a report, s.
REPORT_TIMEOUT = 1.0
#: Interval at which settled messages past their retention are dropped, s.
PURGE_INTERVAL = 600.0

# A message is ready when it has no lease and no earlier message with its key is unsettled. Leases use the machine's
# monotonic clock, which all its processes share and which nothing adjusts. It restarts with the machine, so a lease
# that ends more than one lease duration from now dates from before the restart and has expired. A member's own open
# deliveries are never ready, however late their leases are renewed.
_READY = """
SELECT m.seq, m.topic, m.key, m.value, m.headers, coalesce(d.attempts, 0)
FROM messages m
LEFT JOIN deliveries d ON d.grp = :grp AND d.seq = m.seq
WHERE m.topic = :topic AND m.seq >= (SELECT seq FROM low_water_marks WHERE grp = :grp AND topic = :topic)
  AND m.due <= :wall_clock
  AND coalesce(d.settled, 0) = 0
  AND (d.owner IS NULL OR d.lease_until < :now OR d.lease_until > :now + :lease + 1)
  AND m.seq NOT IN (SELECT value FROM json_each(:open))
  AND NOT EXISTS (
    SELECT 1 FROM messages e
    LEFT JOIN deliveries f ON f.grp = :grp AND f.seq = e.seq
    WHERE e.topic = m.topic AND e.key = m.key AND e.seq < m.seq
      AND e.seq >= (SELECT seq FROM low_water_marks WHERE grp = :grp AND topic = :topic)
      AND coalesce(f.settled, 0) = 0)
ORDER BY m.seq LIMIT 1
"""
_LEASE = """
INSERT INTO deliveries (grp, seq, owner, lease_until, attempts) VALUES (:grp, :seq, :owner, :until, 1)
ON CONFLICT (grp, seq) DO UPDATE SET owner = :owner, lease_until = :until, attempts = attempts + 1
"""
_FIRST_UNSETTLED = """
SELECT m.seq FROM messages m
LEFT JOIN deliveries d ON d.grp = :grp AND d.seq = m.seq
WHERE m.topic = :topic AND coalesce(d.settled, 0) = 0
  AND m.seq >= (SELECT seq FROM low_water_marks WHERE grp = :grp AND topic = :topic)
ORDER BY m.seq LIMIT 1
"""
# The settled message exists or, if it is a report, may have been dropped: the mark is never below its offset + 1.
_NEXT = "SELECT max(coalesce(max(seq), 0), :settled) + 1 FROM messages WHERE topic = :topic"
_LAST = "SELECT coalesce(max(seq), 0) FROM messages WHERE topic = :topic"
_PAGE = """
SELECT seq, key, value, headers, published FROM messages
WHERE topic = :topic AND seq > :after AND seq <= :last ORDER BY seq LIMIT 100
"""
_PURGE = """
DELETE FROM messages WHERE seq IN (
  SELECT m.seq FROM messages m JOIN topics t ON t.name = m.topic
  WHERE t.retention IS NOT NULL AND m.published < :now - t.retention
    AND (t.reports OR m.seq < (SELECT min(w.seq) FROM low_water_marks w WHERE w.topic = m.topic)))
"""
_PURGE_DELIVERIES = """
DELETE FROM deliveries WHERE owner IS NULL AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.seq = deliveries.seq)
"""


class EmbeddedTransport:
    """A ``Transport`` (see ``pipeline.transport.protocol``) on a SQLite file.

    ``lease``: time after which a dead member's message is delivered again, s. ``publish_timeout``: time after which
    ``publish`` fails, as on a disk that hangs, s.
    """

    def __init__(self, path: Path, *, lease: float = 15.0, publish_timeout: float = BUSY_TIMEOUT) -> None:
        self._path = path
        self._lease = lease
        self._database = Database(path, durable=True, busy_timeout=publish_timeout)
        self._reports = Database(path, durable=False, busy_timeout=min(publish_timeout, REPORT_TIMEOUT))
        self._subscriptions: list[EmbeddedSubscription] = []

    def ensure_topics(self, topics: Sequence[Topic]) -> None:
        """Insert the topics; the retention of existing topics is updated."""
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT INTO topics (name, retention, reports) VALUES (?, ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET retention = excluded.retention, reports = excluded.reports",
                [(topic.name, topic.retention, topic.reports) for topic in topics],
            )

    def publish(self, *messages: Message) -> None:
        """Insert the messages in one durable transaction."""
        check_message_sizes(messages)
        with self._database.transaction() as connection:
            _insert(connection, messages)

    def publish_probed(self, *messages: Message, probe: Message) -> None:
        """Publish without the probe, which an atomic transaction does not need."""
        self.publish(*messages)

    def emit(self, *messages: Message) -> None:
        """Insert the messages in a transaction that a power failure may lose; failures are only logged."""
        try:
            check_message_sizes(messages)
            with self._reports.transaction() as connection:
                _insert(connection, messages)
        except PipelineError as error:
            log.warning("report_lost", error=error.message)

    def subscribe(
        self, topics: Sequence[str], group: str, *, weights: Mapping[str, int] | None = None
    ) -> EmbeddedSubscription:
        """Open a connection to the file for a new member of ``group``."""
        database = Database(self._path, durable=True)
        subscription = EmbeddedSubscription(database, topics, group, weights or {}, self._lease)
        self._subscriptions.append(subscription)
        return subscription

    def browse(self, topic: str) -> Iterator[StoredMessage]:
        """Read the topic page by page, up to the last message of the first request."""
        after, (last,) = 0, self._database.query(_LAST, {"topic": topic})
        while rows := self._database.query(_PAGE, {"topic": topic, "after": after, "last": last[0]}):
            for seq, key, value, headers, published in rows:
                yield StoredMessage(Message(topic, key, value, _decode_headers(headers)), 0, seq, published)
                after = seq

    def check(self) -> None:
        """Take and release the write lock of the file. Raises InfrastructureError."""
        with self._database.transaction():
            pass

    def close(self) -> None:
        """Close all subscriptions and the connections to the file."""
        for subscription in self._subscriptions:
            subscription.close()
        self._reports.close()
        self._database.close()


class EmbeddedSubscription:
    """A ``Subscription`` (see ``pipeline.transport.protocol``) on a SQLite file."""

    def __init__(
        self, database: Database, topics: Sequence[str], group: str, weights: Mapping[str, int], lease: float
    ) -> None:
        self._database = database
        self._scheduler = StrideScheduler(weights)
        self._take_lock = threading.Lock()
        self._topics = tuple(topics)
        self._group = group
        self._lease = lease
        self._owner = uuid.uuid4().hex
        self._generation = database.generation
        self._open: dict[int, Delivery] = {}
        self._open_lock = threading.Lock()
        self._closed = threading.Event()
        self._lease_thread = threading.Thread(target=self._renew_until_closed, name=f"lease-{group}", daemon=True)
        self._join_group()
        self._lease_thread.start()

    def receive(self, timeout: float) -> Delivery | None:
        """Return the next ready message with a lease; polls the file until ``timeout`` s have passed."""
        deadline = time.monotonic() + timeout
        while not self._closed.is_set():
            with self._take_lock:
                self._follow_database()
                delivery = self._take()
            if delivery is not None:
                return delivery
            remaining = deadline - time.monotonic()
            if remaining <= 0 or self._closed.wait(min(remaining, POLL_INTERVAL)):
                break
        return None

    def settle(self, delivery: Delivery, *outputs: Message) -> None:
        """Insert the outputs and advance the low-water mark in one transaction, if this member owns the delivery."""
        check_message_sizes(outputs)
        with self._database.transaction() as connection:
            row = connection.execute(
                "SELECT owner FROM deliveries WHERE grp = ? AND seq = ?", (self._group, delivery.offset)
            ).fetchone()
            if row is None or row[0] != self._owner:
                delivery.cancel.cancel(ErrorCode.DELIVERY_LOST)
                self._forget(delivery)
                raise CancelledError("the job now belongs to another consumer", code=ErrorCode.DELIVERY_LOST)
            _insert(connection, outputs)
            connection.execute(
                "UPDATE deliveries SET settled = 1, owner = NULL WHERE grp = ? AND seq = ?",
                (self._group, delivery.offset),
            )
            self._advance_mark(connection, delivery)
        self._forget(delivery)

    def release(self, delivery: Delivery, *, count_attempt: bool) -> None:
        """End the lease, and take back the attempt unless ``count_attempt``."""
        # Forgotten first, so that the lease is no longer renewed and expires if the update fails.
        self._forget(delivery)
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE deliveries SET owner = NULL, lease_until = 0, attempts = attempts - ? "
                "WHERE grp = ? AND seq = ? AND owner = ?",
                (0 if count_attempt else 1, self._group, delivery.offset, self._owner),
            )

    def close(self) -> None:
        """Cancel and release open deliveries uncounted, and close the connection."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._lease_thread.join()
        for delivery in self._open_deliveries():
            delivery.cancel.cancel(ErrorCode.DELIVERY_LOST)
            # If the release fails, the lease expires.
            with suppress(InfrastructureError):
                self.release(delivery, count_attempt=False)
        self._database.close()

    def _join_group(self) -> None:
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO low_water_marks (grp, topic, seq) VALUES (?, ?, 0)",
                [(self._group, topic) for topic in self._topics],
            )

    def _follow_database(self) -> None:
        """Begin anew in a file that has replaced the one before: its offsets name other messages."""
        if self._database.generation == self._generation:
            return
        self._join_group()
        self._generation, self._owner = self._database.generation, uuid.uuid4().hex
        for delivery in self._open_deliveries():
            self._forget(delivery)
            delivery.cancel.cancel(ErrorCode.DELIVERY_LOST)

    def _take(self) -> Delivery | None:
        """Lease the next ready message, or return None."""

        def parameters(topic: str) -> dict[str, object]:
            return {
                "grp": self._group,
                "topic": topic,
                "now": time.monotonic(),
                "wall_clock": time.time(),
                "lease": self._lease,
                "open": json.dumps([delivery.offset for delivery in self._open_deliveries()]),
            }

        # Looking first without the write lock keeps idle members from queueing for it.
        if not any(self._database.query(_READY, parameters(topic)) for topic in self._topics):
            return None
        with self._database.transaction() as connection:
            if self._database.generation != self._generation:
                return None  # in another file, the offsets of open deliveries name other messages
            found = {topic: connection.execute(_READY, parameters(topic)).fetchone() for topic in self._topics}
            heads = {topic: row for topic, row in found.items() if row is not None}
            if not heads:
                return None
            topic = self._scheduler.select(heads)
            seq, _, key, value, headers, attempts = heads[topic]
            if blocked_by_isolation(attempts > 0, self._open_deliveries()):
                return None
            self._scheduler.charge(topic)
            lease_until = time.monotonic() + self._lease
            connection.execute(_LEASE, {"grp": self._group, "seq": seq, "owner": self._owner, "until": lease_until})
        message = Message(topic, key, value, _decode_headers(headers))
        delivery = Delivery(message, partition=0, offset=seq, attempt=attempts + 1, cancel=CancelToken())
        with self._open_lock:
            self._open[seq] = delivery
        return delivery

    def _advance_mark(self, connection: sqlite3.Connection, delivery: Delivery) -> None:
        topic = delivery.message.topic
        values = {"grp": self._group, "topic": topic, "settled": delivery.offset}
        first_unsettled = connection.execute(_FIRST_UNSETTLED, values).fetchone()
        (mark,) = first_unsettled or connection.execute(_NEXT, values).fetchone()
        connection.execute("UPDATE low_water_marks SET seq = ? WHERE grp = ? AND topic = ?", (mark, self._group, topic))
        connection.execute(
            "DELETE FROM deliveries WHERE grp = ? AND seq < ? "
            "AND EXISTS (SELECT 1 FROM messages m WHERE m.seq = deliveries.seq AND m.topic = ?)",
            (self._group, mark, topic),
        )

    def _open_deliveries(self) -> tuple[Delivery, ...]:
        with self._open_lock:
            return tuple(self._open.values())

    def _forget(self, delivery: Delivery) -> None:
        with self._open_lock:
            self._open.pop(delivery.offset, None)

    def _renew_until_closed(self) -> None:
        next_purge = 0.0
        while not self._closed.wait(self._lease / 4):
            try:
                with self._take_lock:
                    self._follow_database()
                self._renew_leases()
                if time.monotonic() >= next_purge:
                    self._purge()
                    next_purge = time.monotonic() + PURGE_INTERVAL
            except InfrastructureError as error:
                # ``settle`` checks the ownership again, so an expired lease cannot lead to duplicate outputs.
                log.warning("lease_not_renewed", group=self._group, error=error.message)

    def _renew_leases(self) -> None:
        deliveries = self._open_deliveries()
        if not deliveries:
            return
        with self._database.transaction() as connection:
            lease_until = time.monotonic() + self._lease
            connection.executemany(
                "UPDATE deliveries SET lease_until = ? WHERE grp = ? AND seq = ? AND owner = ?",
                [(lease_until, self._group, delivery.offset, self._owner) for delivery in deliveries],
            )
            rows = connection.execute(
                "SELECT seq FROM deliveries WHERE grp = ? AND owner = ?", (self._group, self._owner)
            ).fetchall()
        owned = {seq for (seq,) in rows}
        for delivery in deliveries:
            # A delivery that is still open was neither settled nor released meanwhile: another member has taken it.
            if delivery.offset not in owned and delivery in self._open_deliveries():
                self._forget(delivery)
                delivery.cancel.cancel(ErrorCode.DELIVERY_LOST)

    def _purge(self) -> None:
        with self._database.transaction() as connection:
            connection.execute(_PURGE, {"now": time.time()})
            connection.execute(_PURGE_DELIVERIES)


def _insert(connection: sqlite3.Connection, messages: Sequence[Message]) -> None:
    now = time.time()
    rows = []
    for message in messages:
        headers = {name: base64.b64encode(value).decode("ascii") for name, value in message.headers.items()}
        rows.append((message.topic, message.key, message.value, json.dumps(headers), now, due_at(message)))
    connection.executemany(
        "INSERT INTO messages (topic, key, value, headers, published, due) VALUES (?, ?, ?, ?, ?, ?)", rows
    )


def _decode_headers(text: str) -> dict[str, bytes]:
    return {name: base64.b64decode(value) for name, value in json.loads(text).items()}
