"""Reads the content of the topics, the offsets of the groups, and the state of the cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import KafkaError

from devstack.kafka.cluster import KafkaCluster
from pipeline.consuming.retry_headers import ORIGINAL_TOPIC
from pipeline.transport.offsets import parse_metadata
from tests.chaos.audit.ledger import DeadLetter, Lag, StateReported
from tests.chaos.system.settings import PROCESSOR_GROUP, UPLOADER_GROUP, topics

_LOOK_SECONDS = 0.5
_GROUPS = (PROCESSOR_GROUP, UPLOADER_GROUP)
_TERMINAL = {"success", "failed", "cancelled"}


class KafkaView:
    """A view of a running cluster."""

    def __init__(self, cluster: KafkaCluster) -> None:
        self._cluster = cluster

    def lags(self) -> list[Lag]:
        """Return the partitions in which a group has a lag. Raises KafkaError."""
        named = topics()
        of_groups = {
            PROCESSOR_GROUP: (*named.jobs, *named.retry_names),
            UPLOADER_GROUP: (named.results, *named.retry_names),
        }
        with closing(self.admin()) as admin:
            return [lag for group, names in of_groups.items() for lag in _lags(admin, group, names)]

    def wait_in_sync(self, timeout: float) -> bool:
        """Wait until every replica of every partition is in sync. Return False after ``timeout`` s."""
        deadline = time.monotonic() + timeout
        while not self._in_sync():
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_SECONDS)
        return True

    def ends(self) -> Iterator[StateReported]:
        """Yield the terminal states of tasks in the topic of events. Raises KafkaError."""
        for record in self._records(topics().events):
            event = json.loads(record.value)
            if event["status"] in _TERMINAL:
                yield StateReported(task_uuid=event["task_uuid"], status=event["status"])

    def dead_letters(self) -> Iterator[DeadLetter]:
        """Yield all dead letters. Raises KafkaError."""
        for record in self._records(topics().dead_letters):
            yield DeadLetter(key=record.key.decode(), code=dict(record.headers)["error-code"].decode())

    def unfinished(self, names: Iterable[str]) -> tuple[set[str], set[str]]:
        """Return the tasks with an unfinished message in the topics: waiting ones, and those that a member has begun.

        Raises KafkaError.
        """
        with closing(self.admin()) as admin:
            commits = {group: admin.list_group_offsets({group: None})[group] for group in _GROUPS}
        waiting: set[str] = set()
        begun: set[str] = set()
        for record in self._records(*names):
            original = dict(record.headers).get(ORIGINAL_TOPIC, record.topic.encode()).decode()
            group = UPLOADER_GROUP if original == topics().results else PROCESSOR_GROUP
            committed = commits[group].get(TopicPartition(record.topic, record.partition))
            metadata = parse_metadata(committed.metadata if committed else None)
            is_settled = any(record.offset in offsets for offsets in metadata.settled)
            if committed is None or (record.offset >= committed.offset and not is_settled):
                (begun if metadata.attempts.get(record.offset) else waiting).add(record.key.decode())
        return waiting, begun

    def _records(self, *names: str) -> Iterator[Any]:
        consumer = KafkaConsumer(
            bootstrap_servers=self._cluster.bootstrap_servers.split(","),
            group_id=None,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        with closing(consumer):
            partitions = [
                TopicPartition(name, number) for name in names for number in consumer.partitions_for_topic(name) or ()
            ]
            consumer.assign(partitions)
            ends = consumer.end_offsets(partitions)
            while any(consumer.position(partition) < end for partition, end in ends.items()):
                for records in consumer.poll(timeout_ms=1000).values():
                    yield from records

    def _in_sync(self) -> bool:
        try:
            with closing(self.admin()) as admin:
                topics = admin.describe_topics()
        except KafkaError:
            return False
        partitions = [partition for topic in topics for partition in topic["partitions"]]
        return all(set(each["isr_nodes"]) == set(each["replica_nodes"]) for each in partitions)

    def admin(self) -> KafkaAdminClient:
        """Open a client of the first broker that responds. Raises KafkaError if none does."""
        for broker in self._cluster.brokers:
            if broker.running:
                try:
                    return broker.admin()
                except KafkaError:
                    continue
        raise KafkaError("no broker responds")


def _lags(admin: Any, group: str, names: tuple[str, ...]) -> Iterator[Lag]:
    partitions = [
        TopicPartition(topic["name"], partition["partition_index"])
        for topic in admin.describe_topics(list(names))
        for partition in topic["partitions"]
    ]
    committed = admin.list_group_offsets({group: partitions})[group]
    ends = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST))
    starts = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.EARLIEST))
    for partition in partitions:
        end, start = ends[partition].offset, starts[partition].offset
        settled = committed[partition].offset if partition in committed else -1
        if end > start and settled < end:
            yield Lag(
                group=group,
                topic=partition.topic,
                partition=partition.partition,
                behind=end - settled if settled >= 0 else None,
                messages=end - start,
            )
