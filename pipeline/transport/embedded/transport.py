"""The embedded engine: a durable broker in one SQLite file, for one machine, without a server.

Members of a group compete for messages. A message in progress is leased. Each member renews its leases from a
background thread, so a job may run for hours. The lease of a dead member expires and its message is delivered again.
Settling writes the outputs and removes the delivery in one transaction.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

from pipeline.cancellation import CancelToken
from pipeline.errors import CancelledError, ErrorCode, InfrastructureError, PipelineError
from pipeline.service.logs import get_logger
from pipeline.transport.embedded.database import BUSY_TIMEOUT, Database
from pipeline.transport.embedded.deliveries import GroupDeliveries
from pipeline.transport.embedded.purge import PURGE_INTERVAL, purge
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
#: Maximum wait of the purge for the transactions of others, and pause before it is tried again, s.
PURGE_TIMEOUT = 5.0
#: Pause between two transactions that schedule messages, in which others can write, s.
SCHEDULE_PAUSE = 0.01

_LAST = "SELECT coalesce(max(seq), 0) FROM messages WHERE topic = :topic"
_PAGE = """
SELECT seq, key, value, headers, published FROM messages
WHERE topic = :topic AND seq > :after AND seq <= :last ORDER BY seq LIMIT 100
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
        self._closed = threading.Event()
        self._purge_thread = threading.Thread(target=self._purge_until_closed, name="purge", daemon=True)

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
        """Open a connection to the file for a new member of ``group``. The first one starts the purge thread."""
        if not self._subscriptions:
            self._purge_thread.start()
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
        self._closed.set()
        for subscription in self._subscriptions:
            subscription.close()
        if self._subscriptions:
            self._purge_thread.join()
        self._reports.close()
        self._database.close()

    def _purge_until_closed(self) -> None:
        pause = self._lease / 4
        while not self._closed.wait(pause):
            try:
                with closing(Database(self._path, durable=False, busy_timeout=PURGE_TIMEOUT)) as database:
                    purge(database, self._closed)
                pause = PURGE_INTERVAL
            except InfrastructureError as error:
                log.warning("purge_failed", error=error.message)
                pause = PURGE_TIMEOUT


class EmbeddedSubscription:
    """A ``Subscription`` (see ``pipeline.transport.protocol``) on a SQLite file."""

    def __init__(
        self, database: Database, topics: Sequence[str], group: str, weights: Mapping[str, int], lease: float
    ) -> None:
        self._database = database
        self._scheduler = StrideScheduler(weights)
        self._take_lock = threading.Lock()
        self._topics = tuple(topics)
        self._deliveries = GroupDeliveries(group, lease)
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
                topics, unscheduled = self._deliveries.look(self._database, self._topics, self._open_offsets())
                delivery = self._take(topics) if topics else None
            if delivery is not None:
                return delivery
            remaining = deadline - time.monotonic()
            if remaining <= 0 or self._closed.wait(min(remaining, SCHEDULE_PAUSE if unscheduled else POLL_INTERVAL)):
                break
        return None

    def settle(self, delivery: Delivery, *outputs: Message) -> None:
        """Insert the outputs and remove the delivery in one transaction, if this member owns it."""
        check_message_sizes(outputs)
        with self._database.transaction() as connection:
            _insert(connection, outputs)
            if not self._deliveries.settle(connection, delivery.message.topic, delivery.offset, self._owner):
                delivery.cancel.cancel(ErrorCode.DELIVERY_LOST)
                self._forget(delivery)
                raise CancelledError("the job now belongs to another consumer", code=ErrorCode.DELIVERY_LOST)
        self._forget(delivery)

    def release(self, delivery: Delivery, *, count_attempt: bool) -> None:
        """End the lease, and take back the attempt unless ``count_attempt``."""
        # Forgotten first, so that the lease is no longer renewed and expires if the update fails.
        self._forget(delivery)
        with self._database.transaction() as connection:
            self._deliveries.release(
                connection, delivery.message.topic, delivery.offset, self._owner, count_attempt=count_attempt
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
            self._deliveries.join(connection, self._topics)

    def _follow_database(self) -> None:
        """Begin anew in a file that has replaced the one before: its offsets name other messages."""
        if self._database.generation == self._generation:
            return
        self._join_group()
        self._generation, self._owner = self._database.generation, uuid.uuid4().hex
        for delivery in self._open_deliveries():
            self._forget(delivery)
            delivery.cancel.cancel(ErrorCode.DELIVERY_LOST)

    def _take(self, topics: Sequence[str]) -> Delivery | None:
        """Lease the next ready message of the topics, or return None."""
        with self._database.transaction() as connection:
            if self._database.generation != self._generation:
                return None  # in another file, the offsets of open deliveries name other messages
            offsets = self._open_offsets()
            found = {topic: self._deliveries.head(connection, topic, offsets) for topic in topics}
            heads = {topic: head for topic, head in found.items() if head is not None}
            if not heads:
                return None
            topic = self._scheduler.select(heads)
            head = heads[topic]
            if blocked_by_isolation(head.attempts > 0, self._open_deliveries()):
                return None
            stored = self._deliveries.take(connection, topic, head.seq, self._owner)
            if stored is None:
                return None
            self._scheduler.charge(topic)
        key, value, headers = stored
        message = Message(topic, key, value, _decode_headers(headers))
        delivery = Delivery(message, partition=0, offset=head.seq, attempt=head.attempts + 1, cancel=CancelToken())
        with self._open_lock:
            self._open[head.seq] = delivery
        return delivery

    def _open_offsets(self) -> tuple[int, ...]:
        return tuple(delivery.offset for delivery in self._open_deliveries())

    def _open_deliveries(self) -> tuple[Delivery, ...]:
        with self._open_lock:
            return tuple(self._open.values())

    def _forget(self, delivery: Delivery) -> None:
        with self._open_lock:
            self._open.pop(delivery.offset, None)

    def _renew_until_closed(self) -> None:
        while not self._closed.wait(self._deliveries.lease / 4):
            try:
                with self._take_lock:
                    self._follow_database()
                self._renew_leases()
            except InfrastructureError as error:
                # ``settle`` checks the ownership again, so an expired lease cannot lead to duplicate outputs.
                log.warning("lease_not_renewed", group=self._deliveries.group, error=error.message)

    def _renew_leases(self) -> None:
        deliveries = self._open_deliveries()
        if not deliveries:
            return
        held = [(delivery.message.topic, delivery.offset) for delivery in deliveries]
        with self._database.transaction() as connection:
            owned = self._deliveries.renew(connection, held, self._owner)
        for delivery in deliveries:
            # A delivery that is still open was neither settled nor released meanwhile: another member has taken it.
            if delivery.offset not in owned and delivery in self._open_deliveries():
                self._forget(delivery)
                delivery.cancel.cancel(ErrorCode.DELIVERY_LOST)


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
