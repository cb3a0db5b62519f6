"""A subscription to Kafka as the worker's thread sees it: receive, settle, release."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from kafka import KafkaConsumer
from kafka.structs import TopicPartition

from pipeline.errors import CancelledError, InfrastructureError
from pipeline.transport.kafka.member import KafkaMember
from pipeline.transport.kafka.partitions import Partition, Partitions
from pipeline.transport.protocol import Delivery, Message


class KafkaSubscription:
    """See ``pipeline.transport.protocol.Subscription``.

    ``connect`` makes the client, given a function that tells the partitions of which jobs are in hand; ``publish``
    stores messages durably; ``commit_timeout`` (s) bounds the wait for a commit to be taken.
    """

    def __init__(
        self,
        connect: Callable[[Callable[[], Iterable[TopicPartition]]], KafkaConsumer],
        publish: Callable[..., None],
        topics: Sequence[str],
        weights: Mapping[str, int],
        commit_timeout: float,
    ) -> None:
        self._publish = publish
        self._commit_timeout = commit_timeout
        self._partitions = Partitions(weights)
        self._member = KafkaMember(lambda: connect(self._partitions.busy), topics, self._partitions)

    def receive(self, timeout: float) -> Delivery | None:
        deadline = time.monotonic() + timeout
        while True:
            taken = self._partitions.take(deadline - time.monotonic())
            if taken is None:
                self._member.require_alive()
                return None
            partition, delivery = taken
            try:
                # The attempt is on record before the work begins: a death from here on is counted.
                self._commit(partition)
            except CancelledError:
                continue
            except InfrastructureError:
                self._partitions.put_back(partition, delivery, count_attempt=False)
                raise
            return delivery

    def settle(self, delivery: Delivery, *outputs: Message) -> None:
        partition = self._partitions.holding(delivery)
        # Not sent twice when only the commit has to be repeated.
        if delivery.offset not in partition.published:
            self._publish(*outputs)
            partition.published.add(delivery.offset)
        self._partitions.settle(partition, delivery)
        self._commit(partition)
        self._partitions.finish(partition, delivery)

    def release(self, delivery: Delivery, *, count_attempt: bool) -> None:
        try:
            partition = self._partitions.holding(delivery)
            self._partitions.put_back(partition, delivery, count_attempt=count_attempt)
            if not count_attempt:
                self._commit(partition)
        except CancelledError:
            pass  # it is another member's already

    def close(self) -> None:
        self._member.close()

    def _commit(self, partition: Partition) -> None:
        self._member.commit(partition, self._commit_timeout)
