"""The Kafka engine's subscription, as the worker thread uses it: receive, settle, release."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from kafka import KafkaConsumer
from kafka.structs import TopicPartition

from pipeline.errors import CancelledError, InfrastructureError
from pipeline.service.logs import get_logger
from pipeline.transport.kafka.member import GroupMember
from pipeline.transport.kafka.partitions import HeldMessage, PartitionAssignment
from pipeline.transport.protocol import Delivery, Message

log = get_logger(__name__)


class KafkaSubscription:
    """A ``Subscription`` (see ``pipeline.transport.protocol``) on Kafka.

    ``connect`` creates the client; its argument returns the partitions with jobs in progress. ``publish`` stores
    messages durably. ``find_missing`` returns the messages that are no longer in their log, see ``reader``.
    ``commit_timeout`` bounds the wait for the confirmation of a commit, s.
    """

    def __init__(
        self,
        connect: Callable[[Callable[[], Iterable[TopicPartition]]], KafkaConsumer],
        publish: Callable[..., None],
        find_missing: Callable[[Sequence[HeldMessage]], list[Message] | None],
        topics: Sequence[str],
        weights: Mapping[str, int],
        commit_timeout: float,
    ) -> None:
        self._publish = publish
        self._find_missing = find_missing
        self._assignment = PartitionAssignment(weights)
        self._verifying = threading.Lock()
        self._member = GroupMember(lambda: connect(self._assignment.busy), topics, self._assignment, commit_timeout)

    def receive(self, timeout: float) -> Delivery | None:
        """Return the next delivery, after its attempt has been committed. Raises InfrastructureError."""
        self._verify_logs()
        self._restore_vanished()
        deadline = time.monotonic() + timeout
        while True:
            taken = self._assignment.take(deadline - time.monotonic())
            if taken is None:
                self._member.require_responsive()
                return None
            partition, delivery = taken
            try:
                # The attempt is committed before the work begins, so that a crash from here on is counted.
                self._member.commit(partition)
            except CancelledError:
                continue
            except InfrastructureError:
                self._assignment.requeue(partition, delivery, count_attempt=False)
                raise
            return delivery

    def settle(self, delivery: Delivery, *outputs: Message) -> None:
        """Publish the outputs, then commit the low-water mark. Raises as ``Subscription.settle`` does."""
        partition = self._assignment.require_owned(delivery)
        # The outputs are not sent again if only the commit has to be retried.
        if delivery.offset not in partition.published:
            self._publish(*outputs)
            partition.published.add(delivery.offset)
        self._verify_logs()
        self._assignment.settle(partition, delivery)
        self._member.commit(partition)
        self._assignment.finish(partition, delivery)

    def release(self, delivery: Delivery, *, count_attempt: bool) -> None:
        """Return the delivery to the buffer, and commit the lower attempt count unless ``count_attempt``."""
        try:
            partition = self._assignment.require_owned(delivery)
            self._assignment.requeue(partition, delivery, count_attempt=count_attempt)
            if not count_attempt:
                self._member.commit(partition)
        except CancelledError:
            pass  # another member owns it already

    def _verify_logs(self) -> None:
        """Compare the last message of each partition with its log, if the broker may have been replaced.

        Raises InfrastructureError.
        """
        with self._verifying:
            doubts = self._assignment.to_verify()
            missing = self._find_missing([held for held, _ in doubts]) if doubts else None
            if missing is not None:
                self._assignment.set_verified(doubts, missing=missing)

    def _restore_vanished(self) -> None:
        """Publish the messages again that this member holds without an outcome and whose log has vanished.

        A topic that was deleted and created again, or a broker that was restored from an older copy, no longer has
        messages that were confirmed before.
        """
        held = self._assignment.take_unverified()
        if not held:
            return
        try:
            missing = self._find_missing(held)
            if missing:
                self._publish(*missing)
        except BaseException:
            self._assignment.return_unverified(held)
            raise
        if missing is None:
            self._assignment.return_unverified(held)
        elif missing:
            log.warning("messages_restored", count=len(missing), topics=sorted({item.topic for item in missing}))

    def close(self) -> None:
        """Return open deliveries uncounted, and leave the group."""
        self._member.close()
