"""The partitions assigned to a group member, with their messages in memory. No I/O; shared by two threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kafka.errors import KafkaConnectionError
from kafka.structs import OffsetAndMetadata, TopicPartition

from pipeline.cancellation import CancelToken
from pipeline.errors import CancelledError, ErrorCode, PipelineError
from pipeline.transport.fair_queue import StrideScheduler
from pipeline.transport.offsets import CommitMetadata, OffsetTracker
from pipeline.transport.protocol import Delivery, Message, blocked_by_isolation, due_at

#: Maximum wait of ``take`` without a notification, s.
_MAX_WAIT = 3600.0


class UnverifiedLogError(KafkaConnectionError):  # type: ignore[misc]
    """A connection was lost, and it is not known yet whether the log behind the new one is the same."""


@dataclass(frozen=True, slots=True)
class BufferedMessage:
    """A fetched message that waits for a worker."""

    offset: int
    message: Message


@dataclass(frozen=True, slots=True)
class HeldMessage:
    """A message without a durable outcome, from a log that may have vanished."""

    topic_partition: TopicPartition
    offset: int
    message: Message


@dataclass(eq=False)
class AssignedPartition:
    """A partition for as long as this member owns it; each assignment creates a new object."""

    topic_partition: TopicPartition
    topic_id: str | None = None
    """The id of the topic whose log is read; None while it is unknown."""
    restarted: bool = False
    """True if the log went back or was replaced, so that the client's position means nothing."""
    offsets: OffsetTracker = field(default_factory=lambda: OffsetTracker(CommitMetadata()))
    commit_read: bool = False
    """True once ``offsets`` contains the group's last commit; messages are only buffered before."""
    buffer: deque[BufferedMessage] = field(default_factory=deque)
    """The messages that are ready, in the order of their offsets."""
    open: dict[int, Delivery] = field(default_factory=dict)
    begun_at: dict[int, float] = field(default_factory=dict)
    """Start times of the open deliveries on the monotonic clock, s, by offset."""
    published: set[int] = field(default_factory=set)
    """Offsets of open deliveries whose outputs are durable while their offset is not committed yet."""
    last: HeldMessage | None = None
    """The last message that was fetched."""
    doubt: int = 0
    """The number of the lost connection since which the log may be another one of the same name; 0: it is verified.

    No offset is committed while there is doubt."""
    overcounted: bool = False
    """True if the committed metadata may contain an attempt that has been taken back since."""

    def next_ready(self) -> BufferedMessage | None:
        """Return the first message that may begin according to this partition's state; it may not be due yet.

        A message waits while another one with its key is open, so that messages of one key keep their order.
        """
        if not self.commit_read:
            return None
        open_keys = {delivery.message.key for delivery in self.open.values()}
        return next((buffered for buffered in self.buffer if buffered.message.key not in open_keys), None)

    @property
    def held(self) -> list[HeldMessage]:
        """The messages in memory that are not settled.

        Outputs that are durable may vanish with the same log: their messages are held until the offset is durable.
        """
        begun = [(offset, item.message) for offset, item in self.open.items()]
        waiting = [(buffered.offset, buffered.message) for buffered in self.buffer]
        return [HeldMessage(self.topic_partition, offset, message) for offset, message in [*begun, *waiting]]

    def close(self, delivery: Delivery, *, count_attempt: bool = True) -> None:
        """Remove an open delivery, and take its attempt back unless ``count_attempt``."""
        self.open.pop(delivery.offset, None)
        self.begun_at.pop(delivery.offset, None)
        self.published.discard(delivery.offset)
        if not count_attempt:
            self.offsets.undo_attempt(delivery.offset)
            self.overcounted = True

    @property
    def committable(self) -> OffsetAndMetadata:
        """The offset and metadata to commit now. Requires that the group's last commit has been read."""
        return OffsetAndMetadata(self.offsets.low_water, self.offsets.metadata, -1)


class PartitionAssignment:
    """The partitions of one member. Thread-safe: the worker thread takes messages, the client's threads add them."""

    def __init__(self, weights: Mapping[str, int]) -> None:
        """``weights``: of the topics, see ``pipeline.transport.fair_queue``."""
        self._changed = threading.Condition()
        self._scheduler = StrideScheduler(weights)
        self._owned: dict[TopicPartition, AssignedPartition] = {}
        self._unverified: list[HeldMessage] = []
        self._replaced: set[AssignedPartition] = set()
        self._fault: PipelineError | None = None

    # --- called by the worker thread ---

    def take(self, timeout: float) -> tuple[AssignedPartition, Delivery] | None:
        """Begin and return the next ready message; None after ``timeout`` s. Raises the client's fault instead."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                now = time.time()
                next_due = _MAX_WAIT
                heads: dict[str, tuple[AssignedPartition, BufferedMessage]] = {}
                for partition in self._owned.values():
                    buffered = partition.next_ready()
                    if buffered is None:
                        continue
                    delay = due_at(buffered.message) - now
                    if delay > 0:
                        next_due = min(next_due, delay)
                    else:
                        heads.setdefault(partition.topic_partition.topic, (partition, buffered))
                taken = self._begin_next(heads) if heads else None
                if taken is not None:
                    return taken
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    if self._fault is not None:
                        raise self._fault
                    return None
                self._changed.wait(min(remaining, next_due))

    def _begin_next(
        self, heads: Mapping[str, tuple[AssignedPartition, BufferedMessage]]
    ) -> tuple[AssignedPartition, Delivery] | None:
        topic = self._scheduler.select(heads)
        partition, buffered = heads[topic]
        open_deliveries = [delivery for other in self._owned.values() for delivery in other.open.values()]
        if blocked_by_isolation(partition.offsets.is_suspect(buffered.offset), open_deliveries):
            return None
        self._scheduler.charge(topic)
        # Round robin: a long backlog in one partition must not starve the others.
        self._owned[partition.topic_partition] = self._owned.pop(partition.topic_partition)
        partition.buffer.remove(buffered)
        offset, attempt = buffered.offset, partition.offsets.begin(buffered.offset)
        number = partition.topic_partition.partition
        delivery = Delivery(buffered.message, number, offset, attempt, CancelToken())
        partition.open[offset] = delivery
        partition.begun_at[offset] = time.monotonic()
        return partition, delivery

    def require_owned(self, delivery: Delivery) -> AssignedPartition:
        """Return the delivery's partition. Raises CancelledError unless it has been owned without interruption."""
        with self._changed:
            partition = self._owned.get(TopicPartition(delivery.message.topic, delivery.partition))
            if partition is None or partition.open.get(delivery.offset) is not delivery:
                raise delivery_lost()
            return partition

    def take_unverified(self) -> list[HeldMessage]:
        """Return, and forget, the messages that may no longer be in their log."""
        with self._changed:
            held, self._unverified = self._unverified, []
            return held

    def return_unverified(self, held: Iterable[HeldMessage]) -> None:
        """Keep messages that could not be verified yet."""
        with self._changed:
            self._unverified.extend(held)

    def to_verify(self) -> list[tuple[HeldMessage, int]]:
        """Return the last message, and the doubt, of each partition whose log may have been replaced."""
        with self._changed:
            return [(owned.last, owned.doubt) for owned in self._owned.values() if owned.doubt and owned.last]

    def set_verified(self, doubts: Iterable[tuple[HeldMessage, int]], *, missing: Collection[Message]) -> None:
        """End these doubts, unless others have come since. The partitions of ``missing`` messages must begin anew."""
        with self._changed:
            for held, doubt in doubts:
                partition = self._owned.get(held.topic_partition)
                if partition is None or partition.doubt != doubt:
                    continue
                if held.message in missing:
                    self._replaced.add(partition)
                else:
                    partition.doubt = 0

    def requeue(self, partition: AssignedPartition, delivery: Delivery, *, count_attempt: bool) -> None:
        """Return a delivery to its place in the buffer, if this member still owns it."""
        with self._changed:
            owned = self._owned.get(partition.topic_partition) is partition
            if owned and partition.open.get(delivery.offset) is delivery:
                partition.close(delivery, count_attempt=count_attempt)
                messages = [*partition.buffer, BufferedMessage(delivery.offset, delivery.message)]
                partition.buffer = deque(sorted(messages, key=lambda buffered: buffered.offset))
                self._changed.notify_all()

    def settle(self, partition: AssignedPartition, delivery: Delivery) -> None:
        """Record that the outputs of ``delivery`` are durable. It stays open until its offset is durable as well."""
        with self._changed:
            partition.offsets.settle(delivery.offset)

    def finish(self, partition: AssignedPartition, delivery: Delivery) -> None:
        """Close ``delivery``, whose offset is durable."""
        with self._changed:
            partition.close(delivery)
            self._changed.notify_all()  # a suspect may be waiting for this

    # --- called by the client's threads ---

    def committable(self, partition: AssignedPartition) -> OffsetAndMetadata:
        """Return the offset to commit for the partition.

        Raises CancelledError if this member no longer owns it, UnverifiedLogError if its log may be another one.
        """
        with self._changed:
            if self._owned.get(partition.topic_partition) is not partition:
                raise delivery_lost()
            if partition.doubt:
                raise UnverifiedLogError
            partition.overcounted = False
            return partition.committable

    def commit_failed(self, partition: AssignedPartition) -> None:
        """Record that the commit of ``committable`` failed, or that its result is unknown."""
        with self._changed:
            partition.overcounted = True

    def assign(
        self, topic_partitions: Iterable[TopicPartition], topic_ids: Mapping[str, str | None] | None = None
    ) -> None:
        """Add newly assigned partitions. ``topic_ids``: the present ids of the topics, by name."""
        with self._changed:
            for topic_partition in topic_partitions:
                topic_id = (topic_ids or {}).get(topic_partition.topic)
                self._owned.setdefault(topic_partition, AssignedPartition(topic_partition, topic_id))

    def distrust(self, loss: int) -> list[TopicPartition]:
        """Doubt each log, since the connection with this number was lost.

        Returns the partitions of which nothing was fetched, so that nothing can be compared: they must begin anew.
        """
        with self._changed:
            for partition in self._owned.values():
                if partition.last is not None:
                    partition.doubt = loss
            return [key for key, owned in self._owned.items() if owned.last is None and owned.commit_read]

    def take_replaced(self) -> list[TopicPartition]:
        """Return, and forget, the owned partitions that must begin anew."""
        with self._changed:
            replaced, self._replaced = self._replaced, set()
            return [owned.topic_partition for owned in self._owned.values() if owned in replaced]

    def restart(self, topic_partition: TopicPartition, topic_id: str | None) -> None:
        """Give up everything known of a partition, because its log went back or was replaced."""
        self.drop([topic_partition])
        with self._changed:
            self._owned[topic_partition] = AssignedPartition(topic_partition, topic_id, restarted=True)

    @property
    def owned(self) -> tuple[AssignedPartition, ...]:
        """All assigned partitions."""
        with self._changed:
            return tuple(self._owned.values())

    def add_fetched(self, topic_partition: TopicPartition, messages: Sequence[BufferedMessage]) -> bool:
        """Buffer fetched messages; messages of partitions no longer owned are dropped.

        Returns False, and buffers nothing, if the log went back: its messages have offsets that were fetched before.
        """
        with self._changed:
            partition = self._owned.get(topic_partition)
            if partition is None:
                return True
            if partition.commit_read and messages and partition.offsets.is_known(messages[0].offset):
                return False
            if messages:
                partition.last = HeldMessage(topic_partition, messages[-1].offset, messages[-1].message)
            for buffered in messages:
                if partition.commit_read:
                    new = partition.offsets.receive(buffered.offset)
                else:
                    new = not partition.buffer or buffered.offset > partition.buffer[-1].offset
                if new:
                    partition.buffer.append(buffered)
            self._changed.notify_all()
            return True

    def awaiting_commit(self) -> list[AssignedPartition]:
        """Return the partitions for which the group's last commit has not been read yet."""
        with self._changed:
            return [owned for owned in self._owned.values() if not owned.commit_read]

    def set_committed(self, partition: AssignedPartition, committed: CommitMetadata, *, sought: bool = False) -> None:
        """Set the partition's offsets from the group's last commit.

        ``sought``: the client reads from another position from now on; what is buffered is dropped.
        """
        offsets = OffsetTracker(committed, partition.topic_id)
        with self._changed:
            if sought:
                partition.buffer.clear()
            partition.buffer = deque(buffered for buffered in partition.buffer if offsets.receive(buffered.offset))
            partition.offsets, partition.commit_read = offsets, True
            self._changed.notify_all()

    @property
    def buffered(self) -> frozenset[TopicPartition]:
        """The partitions with messages in memory, for which no more need be fetched."""
        with self._changed:
            return frozenset(key for key, partition in self._owned.items() if partition.buffer)

    def busy(self) -> tuple[TopicPartition, ...]:
        """Return the partitions with open deliveries, the longest running first."""
        with self._changed:
            begun = {key: min(owned.begun_at.values()) for key, owned in self._owned.items() if owned.begun_at}
        return tuple(sorted(begun, key=lambda topic_partition: begun[topic_partition]))

    @property
    def topic_partitions(self) -> tuple[TopicPartition, ...]:
        """All assigned partitions."""
        with self._changed:
            return tuple(self._owned)

    def cancel_open(self, topic_partitions: Iterable[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        """Cancel the open deliveries of these partitions, and take back their attempts.

        Returns the commits for those of the partitions whose committed attempts are too high.
        """
        with self._changed:
            partitions = [self._owned[key] for key in topic_partitions if key in self._owned]
            deliveries = [(partition, delivery) for partition in partitions for delivery in partition.open.values()]
            for partition, delivery in deliveries:
                self._unverified.append(HeldMessage(partition.topic_partition, delivery.offset, delivery.message))
                partition.close(delivery, count_attempt=False)
            overcounted = [owned for owned in partitions if owned.overcounted and not owned.doubt]
            commits = {owned.topic_partition: owned.committable for owned in overcounted}
            self._changed.notify_all()
        # Cancelled outside the lock, because the listeners are the worker's code.
        for _, delivery in deliveries:
            delivery.cancel.cancel(ErrorCode.DELIVERY_LOST)
        return commits

    def drop(self, topic_partitions: Iterable[TopicPartition]) -> None:
        """Remove partitions that this member no longer owns, and cancel their open deliveries.

        The messages without an outcome are kept until they are verified: their log may have vanished.
        """
        with self._changed:
            dropped = [self._owned.pop(key) for key in tuple(topic_partitions) if key in self._owned]
            self._unverified += [held for partition in dropped for held in partition.held]
            deliveries = [delivery for partition in dropped for delivery in partition.open.values()]
            self._changed.notify_all()
        for delivery in deliveries:
            delivery.cancel.cancel(ErrorCode.DELIVERY_LOST)

    def set_fault(self, fault: PipelineError | None) -> None:
        """Set the error that ``take`` raises while no message can be received; None: no fault."""
        with self._changed:
            self._fault = fault


def delivery_lost() -> CancelledError:
    """Return the error of a delivery that this member no longer owns."""
    return CancelledError("the job now belongs to another consumer", code=ErrorCode.DELIVERY_LOST)
