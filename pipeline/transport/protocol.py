"""The protocol that the services speak to a broker, and the promises every engine keeps.

1. Messages with the same key are delivered in the order in which they were published.
2. ``publish`` returns when the messages are durable.
3. At least once: a delivery that was neither settled nor released comes again, to this or another consumer.
4. ``settle`` makes the outputs durable first and only then advances the offset. A crash in between repeats the
   job's last step, never loses it.
5. The engine keeps the membership alive by itself: a job may run for hours.
6. A delivery that now belongs to another consumer has its ``cancel`` token set, and can no longer be settled.
7. ``attempt`` counts deliveries that ended in neither ``settle`` nor an uncounted ``release``; the count
   survives the death of every process involved.
8. A message that was begun before without an end is a suspect: it is given out only to a member that holds nothing
   else, and the member gets nothing else until it is over. So a job that takes its process down takes no blame to the
   jobs beside it more than once.
9. A message with a ``not-before`` header is not delivered earlier.
10. Where several topics have messages that can be delivered, they are taken by the topics' weights
    (``pipeline.transport.fair_queue``), so that none starves.

The conformance suite in ``tests/conformance`` holds every engine to these sentences.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.cancellation import CancelToken
from pipeline.errors import ErrorCode, PermanentError


@dataclass(frozen=True, slots=True)
class Message:
    """Bytes on their way to a topic. Messages with the same key keep their order."""

    topic: str
    key: str
    value: bytes
    headers: Mapping[str, bytes] = field(default_factory=dict)


#: Header with the time before which a message is not delivered, ms since the epoch, as decimal digits.
NOT_BEFORE = "not-before"


def due_at(message: Message) -> float:
    """The time before which the message is not delivered, s since the epoch; 0 if it says nothing that can be read."""
    try:
        return int(message.headers.get(NOT_BEFORE, b"0")) / 1000
    except ValueError:
        return 0.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message in the hands of one consumer, until it is settled, released or lost."""

    message: Message
    partition: int
    offset: int
    attempt: int
    """1 for the first delivery; +1 for each earlier one that ended without an outcome."""
    cancel: CancelToken

    @property
    def position(self) -> str:
        """Where the message lies, for logs: ``topic/partition@offset``."""
        return f"{self.message.topic}/{self.partition}@{self.offset}"


def must_wait(suspect: bool, holding: Collection[Delivery]) -> bool:
    """Whether a message has to wait because of what its member holds, by promise 8; ``suspect``: begun before.

    A suspect works alone, so that its end can be laid at no other's door. It waits until all others are done, and
    meanwhile nothing is begun, or it would wait for ever.
    """
    return any(delivery.attempt > 1 for delivery in holding) or (suspect and bool(holding))


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as it lies in its topic."""

    message: Message
    partition: int
    offset: int
    published_at: float
    """s since the epoch"""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it is created."""

    name: str
    retention: float | None
    """How long messages are kept, s; None: for ever. No engine drops a message before then; the embedded one also
    keeps what a group has not settled yet, unless ``reports``."""
    reports: bool = False
    """Messages are reports (see ``emit``): they may be dropped unread."""


#: Longest value of a message, bytes: Kafka takes 1 MiB with key and headers, unless it is told otherwise. What is
#: larger belongs into the hand-off store, its reference into the message (claim check).
MAX_VALUE_BYTES = 1_000_000
#: Longest key and headers together, bytes: the rest of Kafka's 1 MiB.
MAX_HEADER_BYTES = 32_000


def require_storable(messages: Sequence[Message]) -> None:
    """Raise PermanentError (code ``message_too_large``) if one of the messages is larger than the engines take."""
    for message in messages:
        headers = sum(len(name.encode()) + len(value) + 16 for name, value in message.headers.items())
        if len(message.value) > MAX_VALUE_BYTES or len(message.key.encode()) + headers > MAX_HEADER_BYTES:
            raise PermanentError("the message is larger than the broker takes", code=ErrorCode.MESSAGE_TOO_LARGE)


class Subscription(Protocol):
    """A member of a consumer group. Thread-safe; several deliveries may be open at once."""

    def receive(self, timeout: float) -> Delivery | None:
        """The next delivery, or None after ``timeout`` s.

        Raises InfrastructureError while the broker cannot be reached.
        """

    def settle(self, delivery: Delivery, *outputs: Message) -> None:
        """Make ``outputs`` durable, then mark the delivery as done. May be called again after a failure.

        Raises InfrastructureError if the broker does not take it (nothing is acknowledged then), PermanentError
        if an output can never be stored, CancelledError if the delivery now belongs to another consumer.
        """

    def release(self, delivery: Delivery, *, count_attempt: bool) -> None:
        """Give the delivery back; it comes again, to this or another consumer.

        With ``count_attempt`` the next delivery carries ``attempt + 1``, else the same number.
        """

    def close(self) -> None:
        """Give back what is open, uncounted, and leave the group at once."""


class Transport(Protocol):
    """A connection to one broker. Thread-safe but for the subscriptions that it hands out."""

    def ensure_topics(self, topics: Sequence[Topic]) -> None:
        """Create the topics that do not exist; existing ones are left as they are. Raises InfrastructureError."""

    def publish(self, *messages: Message) -> None:
        """Store the messages; returns when they are durable.

        Raises PermanentError if one can never be stored (too large), and nothing is stored then. Raises
        InfrastructureError if the broker does not confirm them: nothing is sent after that, but what the broker
        received without being able to answer may be stored nevertheless.
        """

    def offer(self, *messages: Message, trial: Message) -> None:
        """``publish``, for whoever tells somebody else at once when it fails.

        Kafka: ``trial``, which means nothing, is published first, and the messages only if the broker and its replicas
        answered that quickly. So a broker that hangs is sent nothing that it would store once it goes on; only one that
        falls silent between the two may.
        """

    def emit(self, *messages: Message) -> None:
        """Send reports whose loss does no harm: never blocks for long, never raises on a broken broker."""

    def subscribe(self, topics: Sequence[str], group: str, *, weights: Mapping[str, int] | None = None) -> Subscription:
        """Join ``group``; a new group starts with the oldest message. ``weights``: by topic; 1 for those not named."""

    def browse(self, topic: str) -> Iterator[Stored]:
        """Every message that the topic holds now, oldest first in each partition; no group takes note of it.

        Raises InfrastructureError.
        """

    def check(self) -> None:
        """Raise InfrastructureError unless the broker answers now."""

    def close(self) -> None:
        """Send what is buffered and let go of the connection."""
