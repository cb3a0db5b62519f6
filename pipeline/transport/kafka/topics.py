"""Creates topics and aligns existing ones with the settings: partitions, replicas, topic configuration."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import BrokerResponseError, TopicAlreadyExistsError, UnknownTopicOrPartitionError

from pipeline.service.logs import get_logger
from pipeline.transport.protocol import Topic

log = get_logger(__name__)

#: Maximum time until a broker knows a topic that another broker has created, and the pause between two requests, s.
_PROPAGATION_TIMEOUT, _PROPAGATION_PAUSE = 5.0, 0.1


@dataclass(frozen=True, slots=True)
class TopicLayout:
    """The distribution of topics over the brokers."""

    partitions: int = 12
    replication_factor: int = 1
    min_insync_replicas: int | None = None
    """Replicas that must have a message before it counts as stored; None: all but one, at least 1."""

    def config(self, topic: Topic) -> dict[str, str]:
        """Return the topic configuration of ``topic``, in Kafka's names and units."""
        retention_ms = -1 if topic.retention is None else int(topic.retention * 1000)
        min_insync_replicas = self.min_insync_replicas or max(1, self.replication_factor - 1)
        return {"retention.ms": str(retention_ms), "min.insync.replicas": str(min_insync_replicas)}


def create_missing_topics(admin: KafkaAdminClient, layout: TopicLayout, topics: Sequence[Topic]) -> None:
    """Create the topics that do not exist; existing topics are left unchanged. Raises kafka-python's exceptions."""
    existing = set(admin.list_topics())
    for topic in topics:
        if topic.name not in existing:
            _create(admin, layout, topic)


def reconcile_topic(admin: KafkaAdminClient, layout: TopicLayout, topic: Topic, *, align: bool) -> str:
    """Create ``topic`` or add its missing partitions; with ``align`` also update its configuration.

    Returns one line with the changes made, and those that the operator has to make. Nothing is removed. Raises
    kafka-python's exceptions.
    """
    (found,) = admin.describe_topics([topic.name])
    partitions = found["partitions"]
    wanted, replication_factor = layout.partitions, layout.replication_factor
    if not partitions:
        _create(admin, layout, topic)
        return f"created: {wanted} partitions, {replication_factor} replicas"
    changes = []
    present = len(partitions)
    if present < wanted:
        admin.create_partitions({topic.name: wanted})
        changes.append(f"{wanted - present} partitions added to {present}")
    elif present > wanted:
        changes.append(f"keeps its {present} partitions, {wanted} were requested: a topic cannot lose partitions")
    replicas = min(len(partition["replica_nodes"]) for partition in partitions)
    if replicas != replication_factor:
        changes.append(
            f"keeps its {replicas} replicas, {replication_factor} were requested: "
            "change them with kafka-reassign-partitions"
        )
    changes.extend(_reconcile_config(admin, layout, topic, align))
    return "; ".join(changes) or "up to date"


def _create(admin: KafkaAdminClient, layout: TopicLayout, topic: Topic) -> None:
    description = {
        "num_partitions": layout.partitions,
        "replication_factor": layout.replication_factor,
        "configs": layout.config(topic),
    }
    # Another service that starts at the same time may have created it meanwhile.
    with suppress(TopicAlreadyExistsError):
        admin.create_topics({topic.name: description})
        log.info("topic_created", topic=topic.name, **description)


def _reconcile_config(admin: KafkaAdminClient, layout: TopicLayout, topic: Topic, align: bool) -> Iterator[str]:
    wanted = layout.config(topic)
    query = ConfigResource(ConfigResourceType.TOPIC, topic.name, configs=dict.fromkeys(wanted))
    deadline = time.monotonic() + _PROPAGATION_TIMEOUT
    while not (described := admin.describe_configs([query], config_filter="all")["topic"][topic.name]):
        # The broker does not know the topic yet; kafka-python (3.0.12) discards the error and returns nothing.
        if time.monotonic() >= deadline:
            raise UnknownTopicOrPartitionError(topic.name)
        time.sleep(_PROPAGATION_PAUSE)
    present = {name: setting["value"] for name, setting in described.items()}
    different = {name: value for name, value in wanted.items() if present.get(name) != value}
    if different and align:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic.name, configs=different)
        result = admin.alter_configs([resource])["topic"][topic.name]
        if result != "OK":
            raise BrokerResponseError(result)
    for name, value in different.items():
        old = present.get(name)
        yield f"{name} {old} changed to {value}" if align else f"{name} is {old}, not {value}: --align changes it"
