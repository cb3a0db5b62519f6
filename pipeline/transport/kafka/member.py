"""The thread that keeps a group member alive: it owns the client, polls it without pause, runs commands in between.

A partition of which messages wait in memory, for their turn or for their time, is paused: the polls then keep the
membership alive and fetch nothing of it. ``max_poll_interval_ms`` so bounds a hung client, not a long song.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress

from kafka import KafkaConsumer
from kafka import errors as kafka_errors
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.structs import OffsetAndMetadata, TopicPartition

from pipeline.errors import ErrorCode, InfrastructureError, PipelineError
from pipeline.service import metrics
from pipeline.service.logs import get_logger
from pipeline.transport.kafka.client import finish_interrupted_join, has_coordinator, is_joining
from pipeline.transport.kafka.errors import CLIENT_ERRORS, translate_kafka_error
from pipeline.transport.kafka.partitions import Partition, Partitions, Waiting
from pipeline.transport.kafka.reader import message_of
from pipeline.transport.offsets import parse_metadata

log = get_logger(__name__)

#: Pause between two polls, s: the longest that a new message waits to be noticed. A command ends the pause.
POLL_PAUSE = 0.05
#: Longest poll, ms: the longest that a command waits.
POLL_MS = 5
#: Longest poll while the group is being joined, ms: no command can be carried out then.
JOIN_POLL_MS = 500
#: Longest wait for the broker's answer while no polls are made, ms: well below ``max_poll_interval_ms``.
REQUEST_MS = 2000
#: Pause after the client raised, s.
FAULT_PAUSE = 0.5
#: After this long without a broker that coordinates the group, s, receivers are told.
SILENCE = 3.0
#: After this long in one step of the client, s, receivers are told as well: longer than any of its time-outs.
STUCK = 20.0
#: How long to try to give jobs back and to leave the group, s each, before the group is left to notice by itself.
LEAVE_TIMEOUT = 3.0
#: How long ``close`` waits for the thread, s: a connection attempt, the last poll, giving back, leaving.
CLOSE_TIMEOUT = 15.0

#: Raised by a commit while the group is being rearranged; the next polls bring the answer.
REBALANCING = (
    kafka_errors.CommitFailedError,
    kafka_errors.RebalanceInProgressError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.UnknownMemberIdError,
)

_Command = Callable[[KafkaConsumer], None]


class KafkaMember(ConsumerRebalanceListener):  # type: ignore[misc]
    """Fills ``partitions`` with what the group assigns and the broker delivers, until it is closed."""

    def __init__(self, connect: Callable[[], KafkaConsumer], topics: Sequence[str], partitions: Partitions) -> None:
        self._connect = connect
        self._topics = list(topics)
        self._partitions = partitions
        self._commands: queue.SimpleQueue[tuple[_Command, Future[None]]] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._consumer: KafkaConsumer | None = None
        self._answered = self._stepped = time.monotonic()
        self._stuck_told = False
        self._thread = threading.Thread(target=self._run, name="kafka-member", daemon=True)
        self._thread.start()

    # --- for the worker's thread ---

    def commit(self, partition: Partition, timeout: float) -> None:
        """Commit the partition's low-water mark, waiting out rebalances for as long as the partition stays ours.

        Raises CancelledError if it does not stay ours, InfrastructureError if the broker does not take the commit
        within ``timeout`` s.
        """
        deadline = time.monotonic() + timeout

        def commit(consumer: KafkaConsumer) -> None:
            offset = self._partitions.committable(partition)
            try:
                consumer.commit({partition.position: offset}, timeout_ms=REQUEST_MS)
            except BaseException:
                self._partitions.not_committed(partition)
                raise

        while True:
            try:
                self._call(commit, deadline)
                return
            except REBALANCING as error:
                if time.monotonic() >= deadline:
                    raise translate_kafka_error(error) from error

    def require_alive(self) -> None:
        """Raises InfrastructureError while the client does not come back from what it was last asked."""
        seconds = time.monotonic() - self._stepped
        if seconds < STUCK:
            return
        if not self._stuck_told:
            self._stuck_told = True
            log.error("kafka_client_stuck", seconds=round(seconds), stack=_stack_of(self._thread))
        raise InfrastructureError(
            f"the Kafka client has not come back for {seconds:.0f} s", code=ErrorCode.BROKER_UNAVAILABLE
        )

    def close(self) -> None:
        """Give back what is open, uncounted, and leave the group. Bounded, whatever the broker does."""
        self._closing.set()
        self._thread.join(CLOSE_TIMEOUT)

    def _call(self, command: _Command, deadline: float) -> None:
        """Run ``command`` in the member's thread. Raises what it raises, translated but for ``REBALANCING``."""
        done: Future[None] = Future()
        self._commands.put((command, done))
        if self._closing.is_set():
            self._refuse_commands()
        try:
            done.result(max(0.0, deadline - time.monotonic()))
        except (PipelineError, *REBALANCING):
            raise
        except TimeoutError:
            done.cancel()
            raise InfrastructureError("the broker does not answer", code=ErrorCode.BROKER_UNAVAILABLE) from None
        except CLIENT_ERRORS as error:
            raise translate_kafka_error(error) from error

    # --- for the member's thread ---

    def _run(self) -> None:
        """Poll until closed. Whatever the client raises, the member comes back."""
        while not self._closing.is_set():
            self._stepped, self._stuck_told = time.monotonic(), False
            try:
                if self._consumer is None:
                    self._consumer = self._connect()
                if not self._consumer.subscription():
                    self._join(self._consumer)
                self._step(self._consumer)
                self._partitions.set_fault(self._silence(self._consumer))
            except Exception as error:  # noqa: BLE001  the boundary: a dead thread would be a consumer that hangs
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
        self._run_commands(consumer, pause=0.0 if is_joining(consumer) else POLL_PAUSE)
        self._regulate(consumer)
        for position, records in consumer.poll(timeout_ms=JOIN_POLL_MS if is_joining(consumer) else POLL_MS).items():
            self._partitions.accept(position, [Waiting(record.offset, message_of(record)) for record in records])
        finish_interrupted_join(consumer)
        self._read_commits(consumer)

    def _run_commands(self, consumer: KafkaConsumer, pause: float) -> None:
        """Run what has been asked for; if it is nothing, wait ``pause`` s for it."""
        with suppress(queue.Empty):
            command, done = self._commands.get(timeout=pause)
            while True:
                _run_command(command, done, consumer)
                command, done = self._commands.get_nowait()

    def _refuse_commands(self) -> None:
        refusal = InfrastructureError("the subscription is closed", code=ErrorCode.SHUTTING_DOWN)
        with suppress(queue.Empty):
            while True:
                _command, done = self._commands.get_nowait()
                if done.set_running_or_notify_cancel():
                    done.set_exception(refusal)

    def _regulate(self, consumer: KafkaConsumer) -> None:
        """Fetch nothing from partitions of which records wait in memory, for their turn or for their time."""
        # Partitions come and go only while this thread polls.
        full, paused = self._partitions.full & consumer.assignment(), consumer.paused()
        consumer.pause(*(full - paused))
        consumer.resume(*(paused - full))

    def _read_commits(self, consumer: KafkaConsumer) -> None:
        """Learn how often the waiting messages of new partitions were begun before."""
        for partition in self._partitions.unread():
            committed = consumer.committed(partition.position, metadata=True, timeout_ms=REQUEST_MS)
            self._partitions.read(partition, parse_metadata(committed.metadata if committed else None))

    def _silence(self, consumer: KafkaConsumer) -> PipelineError | None:
        """The fault of a broker that says nothing: polls do not raise it."""
        if has_coordinator(consumer):
            self._answered = time.monotonic()
        if time.monotonic() - self._answered < SILENCE:
            return None
        return InfrastructureError("the broker does not answer", code=ErrorCode.BROKER_UNAVAILABLE)

    def _on_fault(self, error: Exception) -> None:
        try:
            fault = translate_kafka_error(error)
        except Exception:
            log.error("kafka_client_failed", exc_info=error)
            fault = InfrastructureError("the Kafka client failed", code=ErrorCode.BROKER_UNAVAILABLE)
            self._discard_client()
        self._partitions.set_fault(fault)
        self._closing.wait(FAULT_PAUSE)

    def _leave(self) -> None:
        """Give back what is open, uncounted, and leave the group."""
        self._refuse_commands()
        self._partitions.give_up(self._partitions.positions)
        if self._consumer is not None:
            with suppress(*CLIENT_ERRORS):
                self._commit_uncounted(self._consumer)
        self._discard_client()

    def _commit_uncounted(self, consumer: KafkaConsumer) -> None:
        deadline = time.monotonic() + LEAVE_TIMEOUT
        while time.monotonic() < deadline:
            offsets = self._partitions.overcounted(self._partitions.positions)
            if not offsets:
                return
            try:
                consumer.commit(offsets, timeout_ms=int(LEAVE_TIMEOUT * 1000))
                return
            except REBALANCING:
                consumer.poll(
                    timeout_ms=JOIN_POLL_MS
                )  # another member leaves at the same time; what is fetched is let go

    def _discard_client(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._partitions.drop(self._partitions.positions)
        if consumer is None:
            return
        try:
            consumer.close(autocommit=False, timeout_ms=int(LEAVE_TIMEOUT * 1000))
        except Exception as error:  # noqa: BLE001  the boundary: it is thrown away in any case
            log.warning("kafka_client_not_closed", error=repr(error))

    # --- for the client's own thread: no call in here may wait for the broker ---

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        positions = tuple(assigned)
        metrics.rebalances.labels("assigned").inc(len(positions))
        self._partitions.assign(positions)
        log.info("partitions_assigned", partitions=_named(positions))

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        positions = tuple(revoked)
        metrics.rebalances.labels("revoked").inc(len(positions))
        self._partitions.give_up(positions)
        offsets: dict[TopicPartition, OffsetAndMetadata] = self._partitions.overcounted(positions)
        if offsets and self._consumer is not None:
            # The jobs in hand were not to blame. If this does not arrive, one death too many is counted.
            self._consumer.commit_async(offsets)
        self._partitions.drop(positions)
        log.info("partitions_revoked", partitions=_named(positions))

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        positions = tuple(lost)
        metrics.rebalances.labels("lost").inc(len(positions))
        self._partitions.drop(positions)
        log.warning("partitions_lost", partitions=_named(positions))


def _run_command(command: _Command, done: Future[None], consumer: KafkaConsumer) -> None:
    if not done.set_running_or_notify_cancel():
        return
    try:
        command(consumer)
    except Exception as error:  # noqa: BLE001  it belongs to the thread that waits for it
        done.set_exception(error)
    else:
        done.set_result(None)


def _stack_of(thread: threading.Thread) -> list[str]:
    """Where it is, the outermost call first."""
    frame = sys._current_frames().get(thread.ident or 0)
    return [f"{entry.filename}:{entry.lineno} {entry.name}" for entry in traceback.extract_stack(frame)]


def _named(positions: Iterable[TopicPartition]) -> list[str]:
    return sorted(f"{position.topic}/{position.partition}" for position in positions)
