"""A member of a Kafka consumer group that stays one for as long as a job takes.

One thread owns the client and polls it without pause; everything else goes through that thread. While messages wait
to be worked on, all partitions are paused: the polls then keep the membership alive and fetch nothing.
``max_poll_interval_ms`` so bounds a hung client, not a long song.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from kafka import KafkaConsumer
from kafka import errors as kafka_errors
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.structs import OffsetAndMetadata, TopicPartition

from pipeline.cancel import CancelToken
from pipeline.errors import CancelledError, ErrorCode, InfrastructureError, PipelineError
from pipeline.telemetry import get_logger
from pipeline.transport.kafka_client import finish_interrupted_join
from pipeline.transport.kafka_errors import CLIENT_ERRORS, translate
from pipeline.transport.offsets import PartitionProgress, parse_metadata
from pipeline.transport.protocol import Delivery, Message

log = get_logger(__name__)

#: Longest poll, ms: how long a commit may have to wait for the owner thread.
POLL_MS = 50
#: Longest wait for the broker's answer to one request of the owner thread, ms.
REQUEST_MS = 5000
#: Pause after the client raised, s.
FAULT_PAUSE = 0.5
#: How long ``close`` waits for the owner thread, s.
CLOSE_TIMEOUT = 15.0

#: Raised by a commit while the group is being rearranged; the next polls bring the answer.
_REBALANCING = (
    kafka_errors.CommitFailedError,
    kafka_errors.RebalanceInProgressError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.UnknownMemberIdError,
)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A message in memory that nobody works on."""

    offset: int
    message: Message


@dataclass(eq=False)
class _Partition:
    """A partition for as long as this member owns it; a new object each time it is assigned."""

    progress: PartitionProgress | None = None
    """None until the group's last commit has been read."""
    ready: deque[_Waiting] = field(default_factory=deque)
    open: dict[int, Delivery] = field(default_factory=dict)

    def accept(self, waiting: _Waiting) -> None:
        """Queue a message that was fetched, unless it is known: positions are reset when partitions move."""
        last = self.ready[-1].offset if self.ready else -1
        new = waiting.offset > last if self.progress is None else self.progress.received(waiting.offset)
        if new:
            self.ready.append(waiting)

    def put_back(self, delivery: Delivery) -> None:
        """Queue a message again, in its old place."""
        self.open.pop(delivery.offset, None)
        self.ready.append(_Waiting(delivery.offset, delivery.message))
        self.ready = deque(sorted(self.ready, key=lambda waiting: waiting.offset))


class KafkaSubscription(ConsumerRebalanceListener):  # type: ignore[misc]
    """See ``pipeline.transport.protocol.Subscription``.

    ``connect`` makes the client, ``publish`` stores messages durably, ``commit_timeout`` (s) bounds the wait for a
    commit to be taken.
    """

    def __init__(
        self,
        connect: Callable[[], KafkaConsumer],
        publish: Callable[..., None],
        topics: Sequence[str],
        commit_timeout: float,
    ) -> None:
        self._connect = connect
        self._publish = publish
        self._topics = list(topics)
        self._commit_timeout = commit_timeout
        self._changed = threading.Condition()
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._published: set[tuple[TopicPartition, int]] = set()
        self._fault: PipelineError | None = None
        self._commands: queue.SimpleQueue[tuple[Callable[[KafkaConsumer], None], Future[None]]] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._consumer: KafkaConsumer | None = None
        self._owner = threading.Thread(target=self._own, name="kafka-consumer", daemon=True)
        self._owner.start()

    # --- for the worker's thread ---

    def receive(self, timeout: float) -> Delivery | None:
        deadline = time.monotonic() + timeout
        while True:
            taken = self._take(deadline)
            if taken is None:
                return None
            position, partition, delivery = taken
            try:
                # The attempt is on record before the work begins: a death from here on is counted.
                self._commit(position, partition)
            except CancelledError:
                continue
            except InfrastructureError:
                self._put_back(position, partition, delivery, count_attempt=False)
                raise
            return delivery

    def settle(self, delivery: Delivery, *outputs: Message) -> None:
        position = TopicPartition(delivery.message.topic, delivery.partition)
        partition = self._owned(position, delivery)
        # Not sent twice when only the commit has to be repeated.
        if (position, delivery.offset) not in self._published:
            self._publish(*outputs)
            self._published.add((position, delivery.offset))
        with self._changed:
            progress = partition.progress
            assert progress is not None  # it was read before the first delivery
            progress.settle(delivery.offset)
        try:
            self._commit(position, partition)
        except CancelledError:
            self._published.discard((position, delivery.offset))
            raise
        with self._changed:
            partition.open.pop(delivery.offset, None)
        self._published.discard((position, delivery.offset))

    def release(self, delivery: Delivery, *, count_attempt: bool) -> None:
        position = TopicPartition(delivery.message.topic, delivery.partition)
        try:
            partition = self._owned(position, delivery)
        except CancelledError:
            return
        self._put_back(position, partition, delivery, count_attempt=count_attempt)
        if not count_attempt:
            try:
                self._commit(position, partition)
            except CancelledError:
                return

    def close(self) -> None:
        self._closing.set()
        self._owner.join(CLOSE_TIMEOUT)

    def _take(self, deadline: float) -> tuple[TopicPartition, _Partition, Delivery] | None:
        """The next message that is ready, marked as begun; None at ``deadline``."""
        with self._changed:
            while True:
                taken = self._begin_next()
                if taken is not None:
                    return taken
                left = deadline - time.monotonic()
                if left <= 0 and self._fault is not None:
                    raise self._fault
                if left <= 0:
                    return None
                self._changed.wait(left)

    def _begin_next(self) -> tuple[TopicPartition, _Partition, Delivery] | None:
        for position, partition in self._partitions.items():
            if not partition.ready or partition.progress is None:
                continue
            waiting = partition.ready.popleft()
            attempt = partition.progress.begin(waiting.offset)
            delivery = Delivery(waiting.message, position.partition, waiting.offset, attempt, CancelToken())
            partition.open[waiting.offset] = delivery
            # Round robin: a long backlog in one partition must not starve the others.
            self._partitions[position] = self._partitions.pop(position)
            return position, partition, delivery
        return None

    def _put_back(
        self, position: TopicPartition, partition: _Partition, delivery: Delivery, *, count_attempt: bool
    ) -> None:
        with self._changed:
            if self._partitions.get(position) is not partition:
                return
            if not count_attempt and partition.progress is not None:
                partition.progress.uncount(delivery.offset)
            partition.put_back(delivery)
            self._changed.notify_all()

    def _owned(self, position: TopicPartition, delivery: Delivery) -> _Partition:
        """The partition, if this member has owned it ever since ``delivery``."""
        with self._changed:
            partition = self._partitions.get(position)
            if partition is None or partition.open.get(delivery.offset) is not delivery:
                raise _lost()
            return partition

    def _commit(self, position: TopicPartition, partition: _Partition) -> None:
        """Commit the partition's low-water mark, waiting out rebalances for as long as it stays ours."""
        deadline = time.monotonic() + self._commit_timeout

        def commit(consumer: KafkaConsumer) -> None:
            offsets = self._committable(position, partition)
            consumer.commit({position: offsets}, timeout_ms=REQUEST_MS)

        while True:
            try:
                self._run_in_owner(commit, deadline)
                return
            except _REBALANCING as error:
                if time.monotonic() >= deadline:
                    raise translate(error) from error

    def _committable(self, position: TopicPartition, partition: _Partition) -> OffsetAndMetadata:
        with self._changed:
            if self._partitions.get(position) is not partition:
                raise _lost()
            progress = partition.progress
            assert progress is not None
            return OffsetAndMetadata(progress.low_water, progress.metadata, -1)

    def _run_in_owner(self, command: Callable[[KafkaConsumer], None], deadline: float) -> None:
        done: Future[None] = Future()
        self._commands.put((command, done))
        try:
            done.result(max(0.0, deadline - time.monotonic()))
        except _REBALANCING:
            raise
        except TimeoutError:
            done.cancel()
            raise InfrastructureError("the broker does not answer", code=ErrorCode.BROKER_UNAVAILABLE) from None
        except CLIENT_ERRORS as error:
            raise translate(error) from error

    # --- for the owner's thread ---

    def _own(self) -> None:
        """Poll until closed. Whatever the client raises, the member comes back."""
        while not self._closing.is_set():
            try:
                if self._consumer is None:
                    self._consumer = self._connect()
                if not self._consumer.subscription():
                    self._join(self._consumer)
                self._step(self._consumer)
                self._set_fault(None)
            except Exception as error:  # noqa: BLE001  the boundary: a dead owner would be a consumer that hangs
                self._on_fault(error)
        self._leave()

    def _join(self, consumer: KafkaConsumer) -> None:
        # A leader that joins before it knows the partitions hands out none, and may not notice later that there are
        # some (kafka-python 3.0.12): the group then stands still.
        missing = [topic for topic in self._topics if not consumer.partitions_for_topic(topic)]
        if missing:
            raise kafka_errors.UnknownTopicOrPartitionError(", ".join(missing))
        consumer.subscribe(self._topics, listener=self)

    def _step(self, consumer: KafkaConsumer) -> None:
        self._run_commands(consumer)
        self._regulate(consumer)
        for position, records in consumer.poll(timeout_ms=POLL_MS).items():
            self._accept(consumer, position, records)
        finish_interrupted_join(consumer)
        self._read_commits(consumer)

    def _run_commands(self, consumer: KafkaConsumer) -> None:
        while True:
            try:
                command, done = self._commands.get_nowait()
            except queue.Empty:
                return
            if not done.set_running_or_notify_cancel():
                continue
            try:
                command(consumer)
            except Exception as error:  # noqa: BLE001  it belongs to the thread that waits for it
                done.set_exception(error)
            else:
                done.set_result(None)

    def _regulate(self, consumer: KafkaConsumer) -> None:
        """Fetch nothing while records wait in memory."""
        with self._changed:
            full = any(partition.ready for partition in self._partitions.values())
        try:
            if full:
                consumer.pause(*(consumer.assignment() - consumer.paused()))
            else:
                consumer.resume(*consumer.paused())
        except KeyError:
            pass  # taken away between the two calls; the next step sees the new assignment

    def _accept(self, consumer: KafkaConsumer, position: TopicPartition, records: Sequence[Any]) -> None:
        assigned = position in consumer.assignment()
        with self._changed:
            partition = self._partitions.get(position)
            if partition is None:
                if not assigned:
                    return
                partition = self._partitions[position] = _Partition()
            for record in records:
                partition.accept(_Waiting(record.offset, _message(record)))
            self._changed.notify_all()

    def _read_commits(self, consumer: KafkaConsumer) -> None:
        """Learn how often the waiting messages of new partitions were begun before."""
        with self._changed:
            unread = [(p, s) for p, s in self._partitions.items() if s.progress is None and s.ready]
        for position, partition in unread:
            committed = consumer.committed(position, metadata=True, timeout_ms=REQUEST_MS)
            progress = PartitionProgress(parse_metadata(committed.metadata if committed else None))
            with self._changed:
                for waiting in partition.ready:
                    progress.received(waiting.offset)
                partition.progress = progress
                self._changed.notify_all()

    def _on_fault(self, error: Exception) -> None:
        if isinstance(error, CLIENT_ERRORS):
            fault = translate(error)
        else:
            log.exception("kafka_client_failed")
            fault = InfrastructureError("the Kafka client failed", code=ErrorCode.BROKER_UNAVAILABLE)
            self._discard_client()
        self._set_fault(fault)
        self._closing.wait(FAULT_PAUSE)

    def _set_fault(self, fault: PipelineError | None) -> None:
        with self._changed:
            self._fault = fault

    def _discard_client(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._drop(self._positions())
        if consumer is not None:
            with suppress(*CLIENT_ERRORS):
                consumer.close(autocommit=False, timeout_ms=REQUEST_MS)

    def _leave(self) -> None:
        """Give back what is open, uncounted, and leave the group."""
        consumer = self._consumer
        if consumer is None:
            return
        with suppress(*CLIENT_ERRORS):
            self._run_commands(consumer)
            offsets = self._uncounted(self._positions())
            if offsets:
                consumer.commit(offsets, timeout_ms=REQUEST_MS)
        self._discard_client()

    # --- for the client's own thread: no call in here may wait for the broker ---

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        with self._changed:
            for position in assigned:
                self._partitions.setdefault(position, _Partition())
        log.info("partitions_assigned", partitions=_named(assigned))

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        positions = tuple(revoked)
        offsets = self._uncounted(positions)
        if offsets and self._consumer is not None:
            # The jobs in hand were not to blame. If this does not arrive, one death too many is counted.
            self._consumer.commit_async(offsets)
        self._drop(positions)
        log.info("partitions_revoked", partitions=_named(positions))

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        self._drop(tuple(lost))
        log.warning("partitions_lost", partitions=_named(lost))

    def _positions(self) -> tuple[TopicPartition, ...]:
        with self._changed:
            return tuple(self._partitions)

    def _uncounted(self, positions: Sequence[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        """What to commit for partitions that are given up with deliveries open, none of them counted."""
        offsets = {}
        with self._changed:
            for position in positions:
                partition = self._partitions.get(position)
                if partition is None or partition.progress is None or not partition.open:
                    continue
                for offset in partition.open:
                    partition.progress.uncount(offset)
                offsets[position] = OffsetAndMetadata(partition.progress.low_water, partition.progress.metadata, -1)
        return offsets

    def _drop(self, positions: Sequence[TopicPartition]) -> None:
        """The partitions are no longer ours: forget their records, tell their workers."""
        with self._changed:
            dropped = [self._partitions.pop(position, None) for position in positions]
            deliveries = [delivery for partition in dropped if partition for delivery in partition.open.values()]
            self._changed.notify_all()
        for delivery in deliveries:
            delivery.cancel.cancel(ErrorCode.DELIVERY_LOST)


def _message(record: Any) -> Message:
    """What kafka-python fetched, as it came: a broken body is the parser's business, not the client's."""
    key = (record.key or b"").decode("utf-8", "replace")
    return Message(record.topic, key, record.value or b"", dict(record.headers or ()))


def _lost() -> CancelledError:
    return CancelledError("the job now belongs to another consumer", code=ErrorCode.DELIVERY_LOST)


def _named(positions: Iterable[TopicPartition]) -> list[str]:
    return sorted(f"{position.topic}/{position.partition}" for position in positions)
