"""Creates topics and aligns existing ones with the settings: partitions, replicas, topic configuration."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import (
    BrokerResponseError,
    InvalidConfigurationError,
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    InvalidTopicError,
    KafkaError,
    NoError,
    PolicyViolationError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from pipeline.errors import ErrorCode, InfrastructureError, RefusedError
from pipeline.service.logs import get_logger
from pipeline.transport.kafka.client import topics_unknown_to
from pipeline.transport.protocol import Topic

log = get_logger(__name__)

#: Maximum time until every broker knows a topic that was created, and the pause between two requests, s.
_PROPAGATION_TIMEOUT, _PROPAGATION_PAUSE = 20.0, 0.1
#: Reasons of a broker to reject a topic for good, and the settings to check.
_REJECTIONS: dict[type[Exception], str] = {
    InvalidTopicError: "the setting with this name, such as KAFKA_TASK_TOPIC or KAFKA_RETRY_TOPIC_PREFIX",
    InvalidPartitionsError: "KAFKA_PARTITIONS",
    InvalidConfigurationError: "KAFKA_MIN_INSYNC_REPLICAS and the retention settings",
    PolicyViolationError: "KAFKA_PARTITIONS, KAFKA_REPLICATION_FACTOR and the broker's create.topic.policy",
}


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
    """Create the topics that do not exist, and wait until every broker knows all of them.

    Existing topics are left unchanged. Raises kafka-python's exceptions, RefusedError if the broker can never accept a
    topic, and InfrastructureError if the cluster has too few brokers for the replicas.
    """
    existing = set(admin.list_topics())
    for topic in topics:
        if topic.name not in existing:
            _create(admin, layout, topic)
    _wait_until_known(admin, {topic.name for topic in topics})


def require_topics(admin: KafkaAdminClient, names: Set[str]) -> None:
    """Raise InfrastructureError if a topic does not exist. Raises kafka-python's exceptions."""
    missing = sorted(set(names) - set(admin.list_topics())) if names else []
    if missing:
        raise InfrastructureError(
            f"the broker has no topic {', '.join(missing)}: deleted topics are created by a restart of the service or "
            "python -m deploy.make_topics",
            code=ErrorCode.BROKER_UNAVAILABLE,
        )


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
        _wait_until_known(admin, {topic.name})
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
    (result,) = admin.create_topics({topic.name: description}, raise_errors=False)["topics"]
    error = for_code(result["error_code"])
    if error is NoError:
        log.info("topic_created", topic=topic.name, **description)
    elif error is not TopicAlreadyExistsError:  # another service that starts at the same time may have created it
        _raise_rejection(layout, topic, error, result["error_message"] or "")


def _raise_rejection(layout: TopicLayout, topic: Topic, error: type[BrokerResponseError], reason: str) -> None:
    if error is InvalidReplicationFactorError:
        # Not for good: the other brokers of a cluster that is starting join later.
        raise InfrastructureError(
            f"the broker cannot create the topic {topic.name} with {layout.replication_factor} replicas "
            f"(KAFKA_REPLICATION_FACTOR): {reason}",
            code=ErrorCode.BROKER_UNAVAILABLE,
        )
    if error in _REJECTIONS:
        raise RefusedError(
            "the broker does not accept a topic of this service",
            advice=f"the broker does not accept the topic {topic.name!r} ({reason}): check {_REJECTIONS[error]}",
        )
    raise error(reason)


def _wait_until_known(admin: KafkaAdminClient, topics: set[str]) -> None:
    """Wait until every broker knows the topics; a client that asks another broker would not find them.

    Brokers that cannot be reached are left out. Raises UnknownTopicOrPartitionError after ``_PROPAGATION_TIMEOUT``.
    """
    deadline = time.monotonic() + _PROPAGATION_TIMEOUT
    brokers = admin.describe_cluster()["brokers"]
    waiting = [int(broker["broker_id"]) for broker in brokers if not broker.get("is_fenced")]
    while waiting := [broker_id for broker_id in waiting if _unknown(admin, broker_id, topics)]:
        if time.monotonic() >= deadline:
            raise UnknownTopicOrPartitionError(f"the brokers {waiting} do not know all of {sorted(topics)}")
        time.sleep(_PROPAGATION_PAUSE)


def _unknown(admin: KafkaAdminClient, broker_id: int, topics: set[str]) -> set[str]:
    try:
        return topics_unknown_to(admin, broker_id, topics)
    except KafkaError as error:
        log.info("broker_not_asked", broker=broker_id, error=type(error).__name__)
        return set()


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
