"""The protocol between the services and a message broker, and the guarantees of every engine.

1. Messages with the same key are delivered in the order in which they were published.
2. ``publish`` returns when the messages are durable.
3. Delivery is at least once: a delivery that is neither settled nor released is delivered again, to this or another
   consumer.
4. ``settle`` makes the outputs durable first and only then advances the offset. A crash in between repeats the
   job's last step and never loses it.
5. The engine keeps the group membership alive in the background: a job may run for hours.
6. A delivery that now belongs to another consumer has its ``cancel`` token set and can no longer be settled.
7. ``attempt`` counts deliveries that ended in neither ``settle`` nor an uncounted ``release``. The count survives the
   death of every process involved.
8. A message with an earlier attempt that ended without an outcome is a suspect. It is processed in isolation: it is
   delivered only to a member with no other open delivery, and that member receives nothing else until it is done. So
   a job that kills its process adds at most one attempt to the jobs beside it.
9. A message with a ``not-before`` header is not delivered earlier.
10. If several topics have deliverable messages, the topics' weights decide the order
    (``pipeline.transport.fair_queue``), so that no topic starves.

The conformance suite in ``tests/conformance`` checks these guarantees for every engine.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from pipeline.cancellation import CancelToken
from pipeline.errors import ErrorCode, PermanentError


@dataclass(frozen=True, slots=True)
class Message:
    """A message to publish or a message received. Messages with the same key keep their order."""

    topic: str
    key: str
    value: bytes
    headers: Mapping[str, bytes] = field(default_factory=dict)


#: Header with the time before which a message is not delivered, ms since the epoch, as decimal digits.
NOT_BEFORE = "not-before"


def due_at(message: Message) -> float:
    """Return the time before which the message is not delivered, s since the epoch; 0 without a valid header."""
    try:
        return int(message.headers.get(NOT_BEFORE, b"0")) / 1000
    except ValueError:
        return 0.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message that one consumer holds until it is settled, released or lost."""

    message: Message
    partition: int
    offset: int
    attempt: int
    """1 for the first delivery; +1 for each earlier one that ended without an outcome."""
    cancel: CancelToken

    @property
    def position(self) -> str:
        """The message's position for logs: ``topic/partition@offset``."""
        return f"{self.message.topic}/{self.partition}@{self.offset}"


def blocked_by_isolation(suspect: bool, open_deliveries: Collection[Delivery]) -> bool:
    """Return True if guarantee 8 forbids the delivery of the next message now.

    ``suspect`` is True if the next message has an earlier attempt without an outcome. A suspect is processed in
    isolation, so that a crash can be attributed to it. It waits until all open deliveries are done; meanwhile the
    member begins no other message, because the suspect could starve otherwise.
    """
    return any(delivery.attempt > 1 for delivery in open_deliveries) or (suspect and bool(open_deliveries))


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message stored in a topic, with its position."""

    message: Message
    partition: int
    offset: int
    published_at: float
    """s since the epoch"""


class Right(StrEnum):
    """What a program does with a topic, by Kafka's names of the operations."""

    READ = "READ"
    WRITE = "WRITE"


@dataclass(frozen=True, slots=True)
class Topic:
    """The definition of a topic to create."""

    name: str
    retention: float | None
    """Retention time of messages, s; None: unlimited. No engine drops a message earlier. The embedded engine also
    keeps messages that a group has not settled yet, unless ``reports`` is True."""
    reports: bool = False
    """True if the messages are reports (see ``emit``), which may be dropped unread."""
    rights: frozenset[Right] = frozenset()
    """The rights that this program needs, if the broker has access control lists."""


#: Maximum length of a message's value, bytes. Kafka's default limit is 1 MiB with key and headers. Larger content
#: belongs in the hand-off store, with its reference in the message (claim check).
MAX_VALUE_BYTES = 1_000_000
#: Maximum length of key and headers together, bytes: the rest of Kafka's 1 MiB.
MAX_HEADER_BYTES = 32_000


def check_message_sizes(messages: Sequence[Message]) -> None:
    """Raise PermanentError (code ``message_too_large``) if a message is larger than the engines accept."""
    for message in messages:
        headers = sum(len(name.encode()) + len(value) + 16 for name, value in message.headers.items())
        if len(message.value) > MAX_VALUE_BYTES or len(message.key.encode()) + headers > MAX_HEADER_BYTES:
            raise PermanentError("the message is larger than the broker accepts", code=ErrorCode.MESSAGE_TOO_LARGE)


class Subscription(Protocol):
    """A member of a consumer group. Thread-safe; several deliveries may be open at the same time."""

    def receive(self, timeout: float) -> Delivery | None:
        """Return the next delivery, or None after ``timeout`` s.

        Raises InfrastructureError while the broker cannot be reached.
        """

    def settle(self, delivery: Delivery, *outputs: Message) -> None:
        """Make ``outputs`` durable, then mark the delivery as done. May be called again after a failure.

        Raises InfrastructureError if the broker does not confirm it (nothing is acknowledged then), PermanentError
        if an output can never be stored, CancelledError if the delivery now belongs to another consumer.
        """

    def release(self, delivery: Delivery, *, count_attempt: bool) -> None:
        """Return the delivery to the queue; it is delivered again, to this or another consumer.

        With ``count_attempt`` the next delivery carries ``attempt + 1``, otherwise the same number.
        """

    def close(self) -> None:
        """Return all open deliveries uncounted, and leave the group immediately."""


class Transport(Protocol):
    """A connection to one broker. Thread-safe, except for the subscriptions that it creates."""

    def ensure_topics(self, topics: Sequence[Topic]) -> None:
        """Create missing topics; existing topics are left unchanged.

        Raises InfrastructureError, RefusedError if the broker does not grant a right that a topic names or the right
        to create a missing topic.
        """

    def publish(self, *messages: Message) -> None:
        """Store the messages; returns when they are durable.

        Raises PermanentError if a message can never be stored (too large); nothing is stored then. Raises
        InfrastructureError if the broker does not confirm them: nothing is sent after that, but messages that the
        broker received and could not confirm may be stored.
        """

    def publish_probed(self, *messages: Message, probe: Message) -> None:
        """Publish like ``publish``, for callers that report a failure to their own client immediately.

        The Kafka engine first publishes ``probe``, a message without a meaning, and sends the messages only if the
        broker and its replicas confirmed the probe quickly. So a hanging broker receives nothing that it would store
        after it resumes. Only a broker that stops responding between the two may do so.
        """

    def emit(self, *messages: Message) -> None:
        """Send reports, whose loss is harmless: never blocks for long, never raises if the broker is unavailable."""

    def subscribe(self, topics: Sequence[str], group: str, *, weights: Mapping[str, int] | None = None) -> Subscription:
        """Join ``group``; a new group starts with the oldest message. ``weights``: by topic; the default is 1."""

    def browse(self, topic: str) -> Iterator[StoredMessage]:
        """Yield every message that the topic holds now, oldest first in each partition, without affecting any group.

        Raises InfrastructureError.
        """

    def check(self) -> None:
        """Raise InfrastructureError unless the broker responds now."""

    def close(self) -> None:
        """Send buffered messages and close the connection."""
