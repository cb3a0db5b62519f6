"""What a group member holds in memory of the partitions that it owns. No I/O; shared by two threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kafka.structs import OffsetAndMetadata, TopicPartition

from pipeline.cancellation import CancelToken
from pipeline.errors import CancelledError, ErrorCode, PipelineError
from pipeline.transport.fair_queue import WeightedChoice
from pipeline.transport.offsets import CommitNotes, PartitionProgress
from pipeline.transport.protocol import Delivery, Message, due_at, must_wait

#: Longest sleep of whoever waits for a message, s; news wakes him earlier.
_LONG = 3600.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message in memory that nobody works on."""

    offset: int
    message: Message


@dataclass(eq=False)
class Partition:
    """A partition for as long as this member owns it; a new object each time it is assigned."""

    position: TopicPartition
    progress: PartitionProgress | None = None
    """None until the group's last commit has been read."""
    ready: deque[Waiting] = field(default_factory=deque)
    open: dict[int, Delivery] = field(default_factory=dict)
    begun_at: dict[int, float] = field(default_factory=dict)
    """When the open deliveries were begun, on the monotonic clock, s."""
    published: set[int] = field(default_factory=set)
    """Open deliveries whose outputs are durable already, while their offset is not."""
    overcounted: bool = False
    """Whether the broker may have on record an attempt that has been taken back since."""

    def accept(self, waiting: Waiting) -> None:
        """Queue a message that was fetched, unless it is known."""
        last = self.ready[-1].offset if self.ready else -1
        new = waiting.offset > last if self.progress is None else self.progress.received(waiting.offset)
        if new:
            self.ready.append(waiting)

    def next_ready(self) -> Waiting | None:
        """The first message that may be begun as far as this partition goes, whether it is due or not.

        Messages with a key that is open, or that an earlier one has, wait, so that those of a key keep their order.
        """
        if self.progress is None:
            return None
        open_keys = {delivery.message.key for delivery in self.open.values()}
        return next((waiting for waiting in self.ready if waiting.message.key not in open_keys), None)

    def is_suspect(self, waiting: Waiting) -> bool:
        """Whether an attempt at the message has ended without an outcome."""
        return self._known_progress.is_suspect(waiting.offset)

    def begin(self, waiting: Waiting) -> Delivery:
        """Take a message that is ready; the attempt is counted."""
        self.ready.remove(waiting)
        attempt = self._known_progress.begin(waiting.offset)
        delivery = Delivery(waiting.message, self.position.partition, waiting.offset, attempt, CancelToken())
        self.open[waiting.offset] = delivery
        self.begun_at[waiting.offset] = time.monotonic()
        return delivery

    def put_back(self, delivery: Delivery, *, count_attempt: bool) -> None:
        """Queue a message again, in its old place."""
        self._close(delivery.offset)
        if not count_attempt:
            self._uncount(delivery.offset)
        self.ready.append(Waiting(delivery.offset, delivery.message))
        self.ready = deque(sorted(self.ready, key=lambda waiting: waiting.offset))

    def settle(self, delivery: Delivery) -> None:
        """The outputs are durable; the delivery stays open until the offset is as well."""
        self._known_progress.settle(delivery.offset)

    def finish(self, delivery: Delivery) -> None:
        """The offset is durable."""
        self._close(delivery.offset)

    def give_up(self) -> list[Delivery]:
        """Take back the attempts in hand, uncounted; returns the deliveries that were open."""
        given_up = list(self.open.values())
        for delivery in given_up:
            self._close(delivery.offset)
            self._uncount(delivery.offset)
        return given_up

    @property
    def committable(self) -> OffsetAndMetadata:
        """What to commit now. Only for partitions whose progress is known."""
        progress = self._known_progress
        return OffsetAndMetadata(progress.low_water, progress.metadata, -1)

    @property
    def _known_progress(self) -> PartitionProgress:
        assert self.progress is not None  # it is read before the first delivery
        return self.progress

    def _uncount(self, offset: int) -> None:
        self._known_progress.uncount(offset)
        self.overcounted = True

    def _close(self, offset: int) -> None:
        self.open.pop(offset, None)
        self.begun_at.pop(offset, None)
        self.published.discard(offset)


class Partitions:
    """The partitions of one member. Thread-safe: the worker's thread takes, the client's threads feed and drop."""

    def __init__(self, weights: Mapping[str, int]) -> None:
        """``weights``: of topics, see ``pipeline.transport.fair_queue``."""
        self._changed = threading.Condition()
        self._choice = WeightedChoice(weights)
        self._owned: dict[TopicPartition, Partition] = {}
        self._fault: PipelineError | None = None

    # --- for the worker's thread ---

    def take(self, timeout: float) -> tuple[Partition, Delivery] | None:
        """The next message that is ready, marked as begun; None after ``timeout`` s. Raises the client's fault."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                taken = self._begin_next()
                if taken is not None:
                    return taken
                left = deadline - time.monotonic()
                if left <= 0:
                    if self._fault is not None:
                        raise self._fault
                    return None
                self._changed.wait(min(left, self._next_due()))

    def _begin_next(self) -> tuple[Partition, Delivery] | None:
        heads = self._heads(time.time())
        if not heads:
            return None
        topic = self._choice.choose(heads)
        partition, waiting = heads[topic]
        holding = [delivery for other in self._owned.values() for delivery in other.open.values()]
        if must_wait(partition.is_suspect(waiting), holding):
            return None
        self._choice.took(topic)
        # Round robin: a long backlog in one partition must not starve the others.
        self._owned[partition.position] = self._owned.pop(partition.position)
        return partition, partition.begin(waiting)

    def _heads(self, now: float) -> dict[str, tuple[Partition, Waiting]]:
        """The message that is next in each topic."""
        heads: dict[str, tuple[Partition, Waiting]] = {}
        for position, partition in self._owned.items():
            if position.topic not in heads:
                waiting = partition.next_ready()
                if waiting is not None and due_at(waiting.message) <= now:
                    heads[position.topic] = partition, waiting
        return heads

    def _next_due(self) -> float:
        """How long until a message that waits for its time may be due, s."""
        now = time.time()
        heads = [partition.next_ready() for partition in self._owned.values()]
        times = [due_at(waiting.message) - now for waiting in heads if waiting is not None]
        return min((left for left in times if left > 0), default=_LONG)

    def put_back(self, partition: Partition, delivery: Delivery, *, count_attempt: bool) -> None:
        """Queue a delivery again, if it is still this member's."""
        with self._changed:
            if self._is_open(partition, delivery):
                partition.put_back(delivery, count_attempt=count_attempt)
                self._changed.notify_all()

    def holding(self, delivery: Delivery) -> Partition:
        """The partition, if this member has owned it ever since ``delivery``. Raises CancelledError if it has not."""
        with self._changed:
            partition = self._owned.get(TopicPartition(delivery.message.topic, delivery.partition))
            if partition is None or not self._is_open(partition, delivery):
                raise lost()
            return partition

    def settle(self, partition: Partition, delivery: Delivery) -> None:
        """The outputs of ``delivery`` are durable."""
        with self._changed:
            partition.settle(delivery)

    def finish(self, partition: Partition, delivery: Delivery) -> None:
        """The offset of ``delivery`` is durable."""
        with self._changed:
            partition.finish(delivery)
            self._changed.notify_all()  # a suspect may have waited for this

    def _is_open(self, partition: Partition, delivery: Delivery) -> bool:
        owned = self._owned.get(partition.position) is partition
        return owned and partition.open.get(delivery.offset) is delivery

    # --- for the client's threads ---

    def committable(self, partition: Partition) -> OffsetAndMetadata:
        """What to commit for the partition now. Raises CancelledError if it is no longer this member's."""
        with self._changed:
            if self._owned.get(partition.position) is not partition:
                raise lost()
            partition.overcounted = False
            return partition.committable

    def not_committed(self, partition: Partition) -> None:
        """What ``committable`` gave has not been taken by the broker, or not for sure."""
        with self._changed:
            partition.overcounted = True

    def assign(self, positions: Iterable[TopicPartition]) -> None:
        """These partitions are this member's from now on."""
        with self._changed:
            for position in positions:
                self._owned.setdefault(position, Partition(position))

    def accept(self, position: TopicPartition, messages: Iterable[Waiting]) -> None:
        """Queue what was fetched; nothing of partitions that are no longer this member's."""
        with self._changed:
            partition = self._owned.get(position)
            if partition is None:
                return
            for waiting in messages:
                partition.accept(waiting)
            self._changed.notify_all()

    def unread(self) -> list[Partition]:
        """Partitions with messages waiting for the group's last commit to be read."""
        with self._changed:
            return [partition for partition in self._owned.values() if partition.progress is None and partition.ready]

    def read(self, partition: Partition, notes: CommitNotes) -> None:
        """The group's last commit has been read."""
        progress = PartitionProgress(notes)
        with self._changed:
            partition.ready = deque(waiting for waiting in partition.ready if progress.received(waiting.offset))
            partition.progress = progress
            self._changed.notify_all()

    @property
    def full(self) -> frozenset[TopicPartition]:
        """Partitions of which messages wait in memory, so that nothing more need be fetched."""
        with self._changed:
            return frozenset(position for position, partition in self._owned.items() if partition.ready)

    def busy(self) -> tuple[TopicPartition, ...]:
        """Partitions of which jobs are in hand, the longest running first."""
        with self._changed:
            begun = {
                position: min(partition.begun_at.values())
                for position, partition in self._owned.items()
                if partition.begun_at
            }
        return tuple(sorted(begun, key=lambda position: begun[position]))

    @property
    def positions(self) -> tuple[TopicPartition, ...]:
        with self._changed:
            return tuple(self._owned)

    def give_up(self, positions: Iterable[TopicPartition]) -> None:
        """Tell the workers of these partitions to stop; their attempts are not counted."""
        with self._changed:
            owned = [self._owned[position] for position in positions if position in self._owned]
            deliveries = [delivery for partition in owned for delivery in partition.give_up()]
            self._changed.notify_all()
        _cancel(deliveries)

    def overcounted(self, positions: Iterable[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        """What to commit for those of the partitions whose attempts the broker has on record too high."""
        with self._changed:
            owned = [self._owned[position] for position in positions if position in self._owned]
            return {partition.position: partition.committable for partition in owned if partition.overcounted}

    def drop(self, positions: Iterable[TopicPartition]) -> None:
        """These partitions are no longer this member's: forget their messages, tell their workers."""
        with self._changed:
            dropped = [self._owned.pop(position) for position in tuple(positions) if position in self._owned]
            deliveries = [delivery for partition in dropped for delivery in partition.open.values()]
            self._changed.notify_all()
        _cancel(deliveries)

    def set_fault(self, fault: PipelineError | None) -> None:
        """Why nothing can be received at present; None: all is well."""
        with self._changed:
            self._fault = fault


def lost() -> CancelledError:
    """The error of a delivery that is no longer this member's."""
    return CancelledError("the job now belongs to another consumer", code=ErrorCode.DELIVERY_LOST)


def _cancel(deliveries: Iterable[Delivery]) -> None:
    """Outside the lock: listeners are the worker's code."""
    for delivery in deliveries:
        delivery.cancel.cancel(ErrorCode.DELIVERY_LOST)
