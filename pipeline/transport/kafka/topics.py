"""Creates topics and aligns existing ones with the settings: partitions, replicas, topic configuration."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

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
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)

from pipeline.errors import ErrorCode, InfrastructureError, RefusedError
from pipeline.service.logs import get_logger
from pipeline.transport.kafka.client import connection_in_words, topics_unknown_to
from pipeline.transport.kafka.refusal import right_missing
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


@dataclass(frozen=True, slots=True)
class _FoundTopic:
    """A topic as the broker describes it to this client."""

    name: str
    partitions: Sequence[Mapping[str, Any]]
    """Empty if the topic does not exist."""
    operations: Set[str] | None
    """What the access control lists allow this client, by Kafka's names; None if the broker does not say."""

    @property
    def exists(self) -> bool:
        return bool(self.partitions)

    def missing_rights(self, operations: Iterable[str]) -> Iterator[str]:
        """Yield those of the operations that the broker does not allow, in words."""
        for operation in sorted(operations):
            if self.operations is not None and operation not in self.operations:
                yield f"{operation} on the topic {self.name}"

    def require(self, admin: KafkaAdminClient, *operations: str) -> None:
        """Raise BrokerRefusedError unless the broker allows all of the operations."""
        missing = list(self.missing_rights(operations))
        if missing:
            raise right_missing(missing, *connection_in_words(admin))


def _described(admin: KafkaAdminClient, topics: Sequence[Topic]) -> Sequence[_FoundTopic]:
    """Return the topics as the broker describes them, in the given order.

    Raises kafka-python's exceptions, and BrokerRefusedError if the broker does not grant the rights that they name.
    """
    descriptions = {found["name"]: found for found in admin.describe_topics([topic.name for topic in topics])}
    found = [_found_topic(descriptions[topic.name]) for topic in topics]
    # A right to a topic can be granted before the topic exists.
    missing = [
        right
        for topic, candidate in zip(topics, found, strict=True)
        for right in candidate.missing_rights(topic.rights or {"DESCRIBE"})
    ]
    if missing:
        raise right_missing(missing, *connection_in_words(admin))
    return found


def _found_topic(description: Mapping[str, Any]) -> _FoundTopic:
    operations = description["authorized_operations"]
    if description["error_code"] == TopicAuthorizationFailedError.errno:
        operations = ()
    return _FoundTopic(
        description["name"], description["partitions"], None if operations is None else frozenset(operations)
    )


def create_missing_topics(admin: KafkaAdminClient, layout: TopicLayout, topics: Sequence[Topic]) -> None:
    """Create the topics that do not exist, and wait until every broker knows all of them.

    Existing topics are left unchanged. Raises kafka-python's exceptions, BrokerRefusedError if the broker does not
    grant a right to a topic, RefusedError if it can never accept a topic, and InfrastructureError if the cluster has
    too few brokers for the replicas.
    """
    for topic, found in zip(topics, _described(admin, topics), strict=True):
        if not found.exists:
            _create(admin, layout, topic)
    _wait_until_known(admin, {topic.name for topic in topics})


def require_topics(admin: KafkaAdminClient, topics: Sequence[Topic]) -> None:
    """Raise InfrastructureError if a topic does not exist.

    Raises kafka-python's exceptions, BrokerRefusedError if the broker does not grant a right to a topic.
    """
    missing = sorted(found.name for found in _described(admin, topics) if not found.exists)
    if missing:
        raise InfrastructureError(
            f"the broker has no topic {', '.join(missing)}: deleted topics are created by a restart of the service or "
            "python -m deploy.make_topics",
            code=ErrorCode.BROKER_UNAVAILABLE,
        )


def reconcile_topic(admin: KafkaAdminClient, layout: TopicLayout, topic: Topic, *, align: bool) -> str:
    """Create ``topic`` or add its missing partitions; with ``align`` also update its configuration.

    Returns one line with the changes made, and those that the operator has to make. Nothing is removed. Raises
    kafka-python's exceptions, and BrokerRefusedError with the right that is missing.
    """
    (found,) = _described(admin, [topic])
    partitions = found.partitions
    wanted, replication_factor = layout.partitions, layout.replication_factor
    if not partitions:
        _create(admin, layout, topic)
        _wait_until_known(admin, {topic.name})
        return f"created: {wanted} partitions, {replication_factor} replicas"
    changes = []
    present = len(partitions)
    if present < wanted:
        found.require(admin, "ALTER")
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
    found.require(admin, "DESCRIBE_CONFIGS", *(["ALTER_CONFIGS"] if align else []))
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
    if error is TopicAuthorizationFailedError:
        raise right_missing([f"CREATE on the topic {topic.name}, which does not exist"], *connection_in_words(admin))
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
