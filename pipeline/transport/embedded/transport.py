"""The embedded engine: a durable broker in one SQLite file, for one machine and no server.

Members of a group compete for messages. A taken message is leased; a member renews its leases from a thread of its
own, so a job may run for hours, and the lease of a member that died runs out and its message comes again.
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
from pipeline.transport.fair_queue import WeightedChoice
from pipeline.transport.protocol import Delivery, Message, Stored, Topic, due_at, must_wait, require_storable

log = get_logger(__name__)

#: How often an idle member looks for messages that another process published, s.
POLL_INTERVAL = 0.05
#: Longest wait for a report to be written, s.
REPORT_TIMEOUT = 1.0
#: How often settled messages past their retention are dropped, s.
PURGE_INTERVAL = 600.0

# A message is ready when nobody holds it and no earlier message with its key is unsettled. Leases are told in the
# machine's monotonic clock, which all its processes share and which nobody sets; it starts anew when the machine does,
# so a lease that ends later than a whole lease from now is one from before: it counts as over. What this member has
# open itself is never ready, however late its lease is renewed.
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
_CLAIM = """
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
# What has been settled is a message that exists or, a report, has been dropped already: never less than its offset.
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
    """See ``pipeline.transport.protocol.Transport``.

    ``lease``: s after which a dead member's message comes again. ``publish_timeout``: s after which ``publish`` gives
    up, as on a disk that hangs.
    """

    def __init__(self, path: Path, *, lease: float = 15.0, publish_timeout: float = BUSY_TIMEOUT) -> None:
        self._path = path
        self._lease = lease
        self._database = Database(path, durable=True, patience=publish_timeout)
        self._reports = Database(path, durable=False, patience=min(publish_timeout, REPORT_TIMEOUT))
        self._subscriptions: list[EmbeddedSubscription] = []

    def ensure_topics(self, topics: Sequence[Topic]) -> None:
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT INTO topics (name, retention, reports) VALUES (?, ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET retention = excluded.retention, reports = excluded.reports",
                [(topic.name, topic.retention, topic.reports) for topic in topics],
            )

    def publish(self, *messages: Message) -> None:
        require_storable(messages)
        with self._database.transaction() as connection:
            _insert(connection, messages)

    def offer(self, *messages: Message, trial: Message) -> None:
        self.publish(*messages)  # all or nothing: there is nothing to try

    def emit(self, *messages: Message) -> None:
        try:
            require_storable(messages)
            with self._reports.transaction() as connection:
                _insert(connection, messages)
        except PipelineError as error:
            log.warning("report_lost", error=error.message)

    def subscribe(
        self, topics: Sequence[str], group: str, *, weights: Mapping[str, int] | None = None
    ) -> EmbeddedSubscription:
        database = Database(self._path, durable=True)
        subscription = EmbeddedSubscription(database, topics, group, weights or {}, self._lease)
        self._subscriptions.append(subscription)
        return subscription

    def browse(self, topic: str) -> Iterator[Stored]:
        after, (last,) = 0, self._database.query(_LAST, {"topic": topic})
        while rows := self._database.query(_PAGE, {"topic": topic, "after": after, "last": last[0]}):
            for seq, key, value, headers, published in rows:
                yield Stored(Message(topic, key, value, _decode_headers(headers)), 0, seq, published)
                after = seq

    def check(self) -> None:
        with self._database.transaction():
            pass  # took and gave back the right to write

    def close(self) -> None:
        for subscription in self._subscriptions:
            subscription.close()
        self._reports.close()
        self._database.close()


class EmbeddedSubscription:
    """See ``pipeline.transport.protocol.Subscription``."""

    def __init__(
        self, database: Database, topics: Sequence[str], group: str, weights: Mapping[str, int], lease: float
    ) -> None:
        self._database = database
        self._choice = WeightedChoice(weights)
        self._taking = threading.Lock()
        self._topics = tuple(topics)
        self._group = group
        self._lease = lease
        self._owner = uuid.uuid4().hex
        self._open: dict[int, Delivery] = {}
        self._open_lock = threading.Lock()
        self._closed = threading.Event()
        self._keeper = threading.Thread(target=self._keep_alive, name=f"lease-{group}", daemon=True)
        with database.transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO low_water_marks (grp, topic, seq) VALUES (?, ?, 0)",
                [(group, topic) for topic in self._topics],
            )
        self._keeper.start()

    def receive(self, timeout: float) -> Delivery | None:
        deadline = time.monotonic() + timeout
        while not self._closed.is_set():
            delivery = self._take()
            if delivery is not None:
                return delivery
            left = deadline - time.monotonic()
            if left <= 0 or self._closed.wait(min(left, POLL_INTERVAL)):
                break
        return None

    def settle(self, delivery: Delivery, *outputs: Message) -> None:
        require_storable(outputs)
        with self._database.transaction() as connection:
            self._require_ownership(connection, delivery)
            _insert(connection, outputs)
            connection.execute(
                "UPDATE deliveries SET settled = 1, owner = NULL WHERE grp = ? AND seq = ?",
                (self._group, delivery.offset),
            )
            self._advance_mark(connection, delivery)
        self._forget(delivery)

    def release(self, delivery: Delivery, *, count_attempt: bool) -> None:
        # First, so that its lease runs out if even this fails.
        self._forget(delivery)
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE deliveries SET owner = NULL, lease_until = 0, attempts = attempts - ? "
                "WHERE grp = ? AND seq = ? AND owner = ?",
                (0 if count_attempt else 1, self._group, delivery.offset, self._owner),
            )

    def close(self) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        self._keeper.join()
        for delivery in self._open_deliveries():
            delivery.cancel.cancel(ErrorCode.DELIVERY_LOST)
            # If even this fails, the lease runs out by itself.
            with suppress(InfrastructureError):
                self.release(delivery, count_attempt=False)
        self._database.close()

    def _take(self) -> Delivery | None:
        with self._taking:
            # Looking first without the right to write keeps idle members from queueing for it.
            if not any(self._ready(topic) for topic in self._topics):
                return None
            with self._database.transaction() as connection:
                delivery = self._claim_next(connection)
            if delivery is not None:
                with self._open_lock:
                    self._open[delivery.offset] = delivery
            return delivery

    def _ready(self, topic: str) -> bool:
        return bool(self._database.query(_READY, self._ready_values(topic)))

    def _ready_values(self, topic: str) -> dict[str, object]:
        return {
            "grp": self._group,
            "topic": topic,
            "now": time.monotonic(),
            "wall_clock": time.time(),
            "lease": self._lease,
            "open": json.dumps([delivery.offset for delivery in self._open_deliveries()]),
        }

    def _claim_next(self, connection: sqlite3.Connection) -> Delivery | None:
        found = {topic: connection.execute(_READY, self._ready_values(topic)).fetchone() for topic in self._topics}
        heads = {topic: row for topic, row in found.items() if row is not None}
        if not heads:
            return None
        topic = self._choice.choose(heads)
        if must_wait(heads[topic][-1] > 0, self._open_deliveries()):
            return None
        self._choice.took(topic)
        return self._claim(connection, heads[topic])

    def _claim(self, connection: sqlite3.Connection, row: tuple[int, str, str, bytes, str, int]) -> Delivery:
        seq, topic, key, value, headers, attempts = row
        connection.execute(
            _CLAIM,
            {"grp": self._group, "seq": seq, "owner": self._owner, "until": time.monotonic() + self._lease},
        )
        message = Message(topic, key, value, _decode_headers(headers))
        return Delivery(message, partition=0, offset=seq, attempt=attempts + 1, cancel=CancelToken())

    def _require_ownership(self, connection: sqlite3.Connection, delivery: Delivery) -> None:
        row = connection.execute(
            "SELECT owner FROM deliveries WHERE grp = ? AND seq = ?", (self._group, delivery.offset)
        ).fetchone()
        if row is None or row[0] != self._owner:
            delivery.cancel.cancel(ErrorCode.DELIVERY_LOST)
            self._forget(delivery)
            raise CancelledError("the job now belongs to another consumer", code=ErrorCode.DELIVERY_LOST)

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

    def _keep_alive(self) -> None:
        next_purge = 0.0
        while not self._closed.wait(self._lease / 4):
            try:
                self._renew_leases()
                if time.monotonic() >= next_purge:
                    self._purge()
                    next_purge = time.monotonic() + PURGE_INTERVAL
            except InfrastructureError as error:
                # Ownership is checked again when the delivery is settled, so nothing is published twice unnoticed.
                log.warning("lease_not_renewed", group=self._group, error=error.message)

    def _renew_leases(self) -> None:
        deliveries = self._open_deliveries()
        if not deliveries:
            return
        with self._database.transaction() as connection:
            until = time.monotonic() + self._lease
            connection.executemany(
                "UPDATE deliveries SET lease_until = ? WHERE grp = ? AND seq = ? AND owner = ?",
                [(until, self._group, delivery.offset, self._owner) for delivery in deliveries],
            )
            rows = connection.execute(
                "SELECT seq FROM deliveries WHERE grp = ? AND owner = ?", (self._group, self._owner)
            ).fetchall()
        owned = {seq for (seq,) in rows}
        for delivery in deliveries:
            # Still open now, so neither settled nor released between the two looks.
            if delivery.offset not in owned and delivery in self._open_deliveries():
                self._forget(delivery)
                delivery.cancel.cancel(ErrorCode.DELIVERY_LOST)

    def _purge(self) -> None:
        with self._database.transaction() as connection:
            connection.execute(_PURGE, {"now": time.time()})
            connection.execute(_PURGE_DELIVERIES)


def _insert(connection: sqlite3.Connection, messages: Sequence[Message]) -> None:
    now = time.time()
    connection.executemany(
        "INSERT INTO messages (topic, key, value, headers, published, due) VALUES (?, ?, ?, ?, ?, ?)",
        [(m.topic, m.key, m.value, _encode_headers(m.headers), now, due_at(m)) for m in messages],
    )


def _encode_headers(headers: Mapping[str, bytes]) -> str:
    return json.dumps({name: base64.b64encode(value).decode("ascii") for name, value in headers.items()})


def _decode_headers(text: str) -> dict[str, bytes]:
    return {name: base64.b64decode(value) for name, value in json.loads(text).items()}
