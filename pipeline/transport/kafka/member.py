"""The background thread of a group member: it owns the client, polls it continuously, and commits in between.

A partition with messages in memory, which wait for a worker or for their due time, is paused: the polls then keep the
membership alive and fetch nothing of it. So ``max_poll_interval_ms`` bounds a hung client, not a long song.
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
from kafka.structs import TopicPartition

from pipeline.errors import ErrorCode, InfrastructureError, PipelineError
from pipeline.service import metrics
from pipeline.service.logs import get_logger
from pipeline.transport.kafka.client import (
    connection_losses,
    current_position,
    finish_interrupted_join,
    has_coordinator,
    is_joining,
    known_partitions,
    last_refusal,
    request_partitions,
    topic_id,
)
from pipeline.transport.kafka.errors import CLIENT_ERRORS, translate_kafka_error
from pipeline.transport.kafka.partitions import AssignedPartition, BufferedMessage, PartitionAssignment
from pipeline.transport.kafka.reader import message_from_record
from pipeline.transport.kafka.refusal import refusal_from
from pipeline.transport.offsets import CommitMetadata, parse_metadata

log = get_logger(__name__)

#: Pause between two polls, s: the maximum delay until a new message is noticed. A request to commit ends the pause.
POLL_PAUSE = 0.05
#: Timeout of a poll, ms: the maximum delay of a commit.
POLL_MS = 5
#: Timeout of a poll while the group is being joined, ms; no commit can be sent meanwhile.
JOIN_POLL_MS = 500
#: Timeout of a request during which no polls are made, ms: well below ``max_poll_interval_ms``.
REQUEST_MS = 2000
#: Time for which a topic that was just created may be unknown to a broker, s.
YOUNG_TOPIC = 5.0
#: How much the clocks of this machine and of the brokers may differ, s.
CLOCK_TOLERANCE = 3600
#: Pause after an exception of the client, s.
ERROR_PAUSE = 0.5
#: Time without a responding group coordinator after which ``receive`` raises, s.
COORDINATOR_TIMEOUT = 3.0
#: Time in one call of the client after which ``receive`` raises, s: longer than all timeouts of the client.
STALL_TIMEOUT = 20.0
#: Maximum time to return deliveries, and to leave the group, s each. After that the group detects the absence itself.
LEAVE_TIMEOUT = 3.0
#: Maximum wait of ``close`` for the thread, s: a connection attempt, the last poll, returning deliveries, leaving.
CLOSE_TIMEOUT = 15.0

#: Exceptions of a commit during a rebalance; the next polls complete the rebalance.
REBALANCING = (
    kafka_errors.CommitFailedError,
    kafka_errors.RebalanceInProgressError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.UnknownMemberIdError,
)


class GroupMember(ConsumerRebalanceListener):  # type: ignore[misc]
    """Maintains ``assignment``, from the group's assignments and the fetched messages, until it is closed."""

    def __init__(
        self,
        connect: Callable[[], KafkaConsumer],
        topics: Sequence[str],
        assignment: PartitionAssignment,
        commit_timeout: float,
    ) -> None:
        self._connect = connect
        self._commit_timeout = commit_timeout
        self._topics = list(topics)
        self._assignment = assignment
        self._commit_requests: queue.SimpleQueue[tuple[AssignedPartition, Future[None]]] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._consumer: KafkaConsumer | None = None
        self._last_response = self._last_step = time.monotonic()
        self._stall_logged = False
        self._missing_since: float | None = None
        self._known_losses = 0
        self._thread = threading.Thread(target=self._run, name="kafka-member", daemon=True)
        self._thread.start()

    # --- called by the worker thread ---

    def commit(self, partition: AssignedPartition) -> None:
        """Commit the partition's low-water mark, retrying during rebalances while this member owns the partition.

        Raises CancelledError if the partition is lost, InfrastructureError if the broker does not confirm the commit
        within ``commit_timeout`` s.
        """
        deadline = time.monotonic() + self._commit_timeout
        while True:
            done: Future[None] = Future()
            self._commit_requests.put((partition, done))
            if self._closing.is_set():
                self._reject_commit_requests()
            try:
                done.result(max(0.0, deadline - time.monotonic()))
                return
            except PipelineError:
                raise
            except REBALANCING as error:
                if time.monotonic() >= deadline:
                    raise translate_kafka_error(error) from error
            except TimeoutError:
                done.cancel()
                raise InfrastructureError("the broker does not answer", code=ErrorCode.BROKER_UNAVAILABLE) from None
            except CLIENT_ERRORS as error:
                raise translate_kafka_error(error) from error

    def require_responsive(self) -> None:
        """Raise InfrastructureError while a call of the client takes longer than ``STALL_TIMEOUT``."""
        seconds = time.monotonic() - self._last_step
        if seconds < STALL_TIMEOUT:
            return
        if not self._stall_logged:
            self._stall_logged = True
            frame = sys._current_frames().get(self._thread.ident or 0)
            stack = [f"{entry.filename}:{entry.lineno} {entry.name}" for entry in traceback.extract_stack(frame)]
            log.error("kafka_client_stuck", seconds=round(seconds), stack=stack)
        raise InfrastructureError(
            f"the Kafka client has not returned for {seconds:.0f} s", code=ErrorCode.BROKER_UNAVAILABLE
        )

    def close(self) -> None:
        """Return open deliveries uncounted, and leave the group. Bounded by ``CLOSE_TIMEOUT``."""
        self._closing.set()
        self._thread.join(CLOSE_TIMEOUT)

    # --- run by the member's thread ---

    def _run(self) -> None:
        """Poll until closed. An exception of the client is reported, and polling continues."""
        while not self._closing.is_set():
            self._last_step, self._stall_logged = time.monotonic(), False
            try:
                if self._consumer is None:
                    self._consumer, self._known_losses = self._connect(), 0
                if not self._consumer.subscription():
                    # A group leader that joins before it knows the partitions assigns none, and may not notice later
                    # that there are some (kafka-python 3.0.12): the group then stalls.
                    if not all(request_partitions(self._consumer, self._topics)):
                        self._assignment.set_fault(self._missing_topics(self._consumer))
                        self._closing.wait(ERROR_PAUSE)
                        continue
                    self._consumer.subscribe(self._topics, listener=self)
                self._step(self._consumer)
            except Exception as error:  # noqa: BLE001  the boundary: without this thread the consumer would hang
                self._on_error(error)
        self._leave()

    def _step(self, consumer: KafkaConsumer) -> None:
        """Send requested commits, poll once, read the commits of new partitions, and update the fault."""
        self._run_commits(consumer, pause=0.0 if is_joining(consumer) else POLL_PAUSE)
        self._distrust_after_loss(consumer)
        for key in self._assignment.take_replaced():
            self._restart(consumer, key)
        # Partitions are assigned and revoked only while this thread polls, so the assignment cannot change here.
        buffered, paused = self._assignment.buffered & consumer.assignment(), consumer.paused()
        consumer.pause(*(buffered - paused))
        consumer.resume(*(paused - buffered))
        timeout_ms = JOIN_POLL_MS if is_joining(consumer) else POLL_MS
        for topic_partition, records in consumer.poll(timeout_ms=timeout_ms).items():
            messages = [BufferedMessage(record.offset, message_from_record(record)) for record in records]
            if not self._assignment.add_fetched(topic_partition, messages):
                self._restart(consumer, topic_partition)
        finish_interrupted_join(consumer)
        for partition in self._assignment.owned:
            current = topic_id(consumer, partition.topic_partition.topic)
            if partition.topic_id is None:
                partition.topic_id = current
            elif current not in (None, partition.topic_id) or self._went_back(consumer, partition):
                self._restart(consumer, partition.topic_partition)
        if not is_joining(consumer):
            self._read_commits(consumer, self._assignment.awaiting_commit())
        # Polls do not raise when the broker stops responding.
        if has_coordinator(consumer):
            self._last_response = time.monotonic()
        fault = self._missing_topics(consumer)
        if time.monotonic() - self._last_response >= COORDINATOR_TIMEOUT:
            fault = InfrastructureError("the broker does not answer", code=ErrorCode.BROKER_UNAVAILABLE)
        self._assignment.set_fault(fault)

    def _distrust_after_loss(self, consumer: KafkaConsumer) -> None:
        """Have all partitions verified if a connection was lost: the broker may have been restored from a copy.

        The new log may be as long as the old one, and have the same leader epochs, so that nothing else shows it.
        """
        losses = connection_losses(consumer)
        if losses != self._known_losses:
            self._known_losses = losses
            for idle in self._assignment.distrust(losses):
                self._begin_anew(consumer, idle)

    def _went_back(self, consumer: KafkaConsumer, partition: AssignedPartition) -> bool:
        """Return True if the client reads again, or skips, offsets that were fetched before."""
        position = current_position(consumer, partition.topic_partition)
        return partition.commit_read and position is not None and partition.offsets.is_known(position)

    def _restart(self, consumer: KafkaConsumer, topic_partition: TopicPartition) -> None:
        """Begin anew with a partition whose log went back or was replaced."""
        log.warning("log_restarted", partition=_names([topic_partition])[0])
        metrics.log_restarts.labels(topic_partition.topic).inc()
        self._begin_anew(consumer, topic_partition)

    def _begin_anew(self, consumer: KafkaConsumer, topic_partition: TopicPartition) -> None:
        self._assignment.restart(topic_partition, topic_id(consumer, topic_partition.topic))
        consumer.seek_to_beginning(topic_partition)

    def _read_commits(self, consumer: KafkaConsumer, partitions: Sequence[AssignedPartition]) -> None:
        """Read the group's last commit for each partition, and check that it belongs to the log of today."""
        commits = {
            partition.topic_partition: consumer.committed(
                partition.topic_partition, metadata=True, timeout_ms=REQUEST_MS
            )
            for partition in partitions
        }
        found = [key for key, committed in commits.items() if committed]
        ends = consumer.end_offsets(found, timeout_ms=REQUEST_MS) if found else {}
        for partition in partitions:
            key, committed = partition.topic_partition, commits[partition.topic_partition]
            metadata = parse_metadata(committed.metadata if committed else None)
            is_other = None not in (metadata.topic_id, partition.topic_id) and metadata.topic_id != partition.topic_id
            if committed and (is_other or committed.offset > ends[key]):
                since = None if is_other else metadata.written_at
                start = _seek_unread(consumer, key, since, ends[key])
                log.warning("commit_outdated", partition=_names([key])[0], committed=committed.offset, start=start)
                self._assignment.set_committed(partition, CommitMetadata(), sought=True)
                continue
            if committed and partition.restarted:
                consumer.seek(key, committed.offset)
            self._assignment.set_committed(partition, metadata, sought=bool(committed) and partition.restarted)

    def _missing_topics(self, consumer: KafkaConsumer) -> InfrastructureError | None:
        """Return an error if a topic does not exist; None also for a while after its creation, or its deletion."""
        missing = [topic for topic in self._topics if not known_partitions(consumer, topic)]
        if not missing:
            self._missing_since = None
            return None
        self._missing_since = self._missing_since or time.monotonic()
        if time.monotonic() - self._missing_since < YOUNG_TOPIC:
            return None
        return InfrastructureError(
            f"the topic {', '.join(missing)} does not exist: create it with python -m deploy.make_topics",
            code=ErrorCode.BROKER_UNAVAILABLE,
        )

    def _run_commits(self, consumer: KafkaConsumer, pause: float) -> None:
        """Send all requested commits; if there are none, wait ``pause`` s for a request."""
        with suppress(queue.Empty):
            partition, done = self._commit_requests.get(timeout=pause)
            while True:
                if done.set_running_or_notify_cancel():
                    try:
                        self._distrust_after_loss(consumer)
                        offset = self._assignment.committable(partition)
                        consumer.commit({partition.topic_partition: offset}, timeout_ms=REQUEST_MS)
                    except Exception as error:  # noqa: BLE001  raised again in the thread that waits for the result
                        self._assignment.commit_failed(partition)
                        done.set_exception(error)
                    else:
                        done.set_result(None)
                partition, done = self._commit_requests.get_nowait()

    def _reject_commit_requests(self) -> None:
        closed = InfrastructureError("the subscription is closed", code=ErrorCode.SHUTTING_DOWN)
        with suppress(queue.Empty):
            while True:
                _, done = self._commit_requests.get_nowait()
                if done.set_running_or_notify_cancel():
                    done.set_exception(closed)

    def _on_error(self, error: Exception) -> None:
        refusal = None
        if self._consumer is not None and refusal_from(error):
            refusal = last_refusal(self._consumer, error)  # names the broker and the login
        try:
            fault = translate_kafka_error(refusal or error)
        except Exception:
            log.error("kafka_client_failed", exc_info=error)
            fault = InfrastructureError("the Kafka client failed", code=ErrorCode.BROKER_UNAVAILABLE)
            self._discard_client()
        self._assignment.set_fault(fault)
        self._closing.wait(ERROR_PAUSE)

    def _leave(self) -> None:
        """Return open deliveries uncounted, and leave the group."""
        self._reject_commit_requests()
        offsets = self._assignment.cancel_open(self._assignment.topic_partitions)
        deadline = time.monotonic() + LEAVE_TIMEOUT
        with suppress(*CLIENT_ERRORS):
            while offsets and self._consumer is not None and time.monotonic() < deadline:
                try:
                    self._consumer.commit(offsets, timeout_ms=int(LEAVE_TIMEOUT * 1000))
                    break
                except REBALANCING:
                    # Another member is leaving at the same time. The fetched messages are dropped.
                    self._consumer.poll(timeout_ms=JOIN_POLL_MS)
                    offsets = self._assignment.cancel_open(self._assignment.topic_partitions)
        self._discard_client()

    def _discard_client(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._assignment.drop(self._assignment.topic_partitions)
        if consumer is None:
            return
        try:
            consumer.close(autocommit=False, timeout_ms=int(LEAVE_TIMEOUT * 1000))
        except Exception as error:  # noqa: BLE001  the boundary: the client is discarded in any case
            log.warning("kafka_client_close_failed", error=repr(error))

    # --- run by the client's own thread: no call in these methods may wait for the broker ---

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Add the new partitions."""
        topic_partitions = tuple(assigned)
        metrics.rebalances.labels("assigned").inc(len(topic_partitions))
        topics = {topic_partition.topic for topic_partition in topic_partitions} if self._consumer else ()
        self._assignment.assign(topic_partitions, {topic: topic_id(self._consumer, topic) for topic in topics})
        log.info("partitions_assigned", partitions=_names(topic_partitions))

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Cancel the jobs of the partitions, commit their lower attempt counts, and drop the partitions."""
        topic_partitions = tuple(revoked)
        metrics.rebalances.labels("revoked").inc(len(topic_partitions))
        offsets = self._assignment.cancel_open(topic_partitions)
        if offsets and self._consumer is not None:
            # The jobs in progress did not cause the rebalance. If this commit fails, one crash too many is counted.
            self._consumer.commit_async(offsets)
        self._assignment.drop(topic_partitions)
        log.info("partitions_revoked", partitions=_names(topic_partitions))

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        """Cancel the jobs of the partitions and drop them; a commit is no longer possible."""
        topic_partitions = tuple(lost)
        metrics.rebalances.labels("lost").inc(len(topic_partitions))
        self._assignment.drop(topic_partitions)
        log.warning("partitions_lost", partitions=_names(topic_partitions))


def _seek_unread(consumer: KafkaConsumer, topic_partition: TopicPartition, since: int | None, end: int) -> int:
    """Seek to the first message that the group cannot have read, and return its offset.

    ``since``: the time (s) of a commit to the same log, which went back since: all messages before it were read. None:
    the log is another one.
    """
    if since is None:
        consumer.seek_to_beginning(topic_partition)
        return 0
    timestamps = {topic_partition: max(0, since - CLOCK_TOLERANCE) * 1000}
    later = consumer.offsets_for_times(timestamps, timeout_ms=REQUEST_MS)[topic_partition]
    start = end if later is None else later.offset
    consumer.seek(topic_partition, start)
    return start


def _names(topic_partitions: Iterable[TopicPartition]) -> list[str]:
    return sorted(f"{topic_partition.topic}/{topic_partition.partition}" for topic_partition in topic_partitions)
