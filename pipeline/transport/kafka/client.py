"""The configuration of kafka-python's clients: one place for every client setting, with its reason.

This module is also the only code that uses private attributes of the clients (3.0.12), where their public interface
lacks a function.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError, TopicAuthorizationFailedError, UnknownTopicOrPartitionError
from kafka.protocol.metadata import MetadataRequest
from kafka.structs import TopicPartition

from pipeline.transport.kafka.assignor import StickyAssignor
from pipeline.transport.kafka.network import create_client
from pipeline.transport.kafka.refusal import BrokerRefusedError, describe_login, refusal_from
from pipeline.transport.kafka.security import KafkaSecurity
from pipeline.transport.protocol import Right

#: A poll returns all fetched records. In kafka-python 3.0.12, a partition that is paused while the client still holds
#: records of it can stay silent after it is resumed, so no record may remain in the client.
ALL_RECORDS = 1_000_000
#: Memory for fetched records per partition, bytes; it bounds a fetch instead of the number of records. Task messages
#: have about 1 kB; a larger message is fetched alone.
FETCH_BYTES = 256 * 1024
#: Timeout of one request of a consumer, ms. It bounds the wait for a hanging broker.
REQUEST_MS = 10_000
#: Interval at which the cluster metadata is refreshed, also while the group is being joined, and the time that a
#: working broker may take to answer, ms.
METADATA_AGE_MS, METADATA_DELAY_MS = 10_000, 5_000
#: Maximum wait for the thread of a force-closed producer, s. It may be busy looking for a broker, but sends nothing.
FORCE_CLOSE_TIMEOUT = 0.2


@dataclass(frozen=True, slots=True)
class KafkaClientFactory:
    """Creates the clients of one broker.

    Every method raises kafka-python's own exceptions, including BrokerRefusedError, which is a KafkaError.
    """

    bootstrap_servers: str
    publish_timeout: float
    """s"""
    max_poll_interval_ms: int
    session_timeout_ms: int
    check_timeout: float = 2.0
    """s"""
    security: KafkaSecurity = field(default_factory=KafkaSecurity)

    def producer(self, bootstrap_timeout: float) -> KafkaProducer:
        """Create an idempotent producer. ``bootstrap_timeout``: maximum wait for a broker, s."""
        milliseconds = int(self.publish_timeout * 1000)
        return create_client(
            KafkaProducer,
            **self._common_settings(int(bootstrap_timeout * 1000)),
            acks="all",
            enable_idempotence=True,
            # All three timeouts end together: when ``publish`` fails, the client has given up as well.
            max_block_ms=milliseconds,
            delivery_timeout_ms=milliseconds,
            request_timeout_ms=max(1, milliseconds - 100),
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )

    def consumer(self, group: str, busy: Callable[[], Iterable[TopicPartition]] = tuple) -> KafkaConsumer:
        """Create a member of ``group``.

        ``busy`` returns the partitions with jobs in progress, the longest running first.
        """
        return create_client(
            KafkaConsumer,
            **self._common_settings(REQUEST_MS // 2),
            group_id=group,
            # Only ``settle`` commits offsets, after a message's outcome is durable.
            enable_auto_commit=False,
            # A new group starts with the oldest job, not with the next one.
            auto_offset_reset="earliest",
            # Cooperative rebalancing: members keep their partitions while others join or leave. It must not be mixed
            # with an eager assignor.
            partition_assignment_strategy=[StickyAssignor(busy)],
            max_poll_interval_ms=self.max_poll_interval_ms,
            session_timeout_ms=self.session_timeout_ms,
            # Members learn about a rebalance from the heartbeat response; frequent heartbeats shorten rebalances.
            heartbeat_interval_ms=min(1000, self.session_timeout_ms // 4),
            max_poll_records=ALL_RECORDS,
            max_partition_fetch_bytes=FETCH_BYTES,
            request_timeout_ms=REQUEST_MS,
            # ``ensure_topics`` creates topics with their settings; a metadata request must not.
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )

    def reader(self) -> KafkaConsumer:
        """Create a consumer without a group, which reads without committing offsets."""
        return create_client(
            KafkaConsumer,
            **self._common_settings(REQUEST_MS // 2),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            request_timeout_ms=REQUEST_MS,
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )

    def admin(self) -> KafkaAdminClient:
        """Create an admin client, whose requests time out after ``check_timeout``."""
        milliseconds = int(self.check_timeout * 1000)
        return create_client(KafkaAdminClient, **self._common_settings(milliseconds), request_timeout_ms=milliseconds)

    def _common_settings(self, bootstrap_timeout_ms: int) -> dict[str, Any]:
        return {
            "bootstrap_servers": self.bootstrap_servers.split(","),
            "client_id": "uvr-api",
            "bootstrap_timeout_ms": max(1, bootstrap_timeout_ms),
            "reconnect_backoff_max_ms": 2000,
            # Partitions added to a topic are discovered and assigned within this time.
            "metadata_max_age_ms": METADATA_AGE_MS,
            **self.security.client_settings(),
        }


def force_close(producer: KafkaProducer) -> None:
    """Close a producer and drop its unsent messages; nothing is sent after this returns.

    ``close(timeout=0)`` is not sufficient (kafka-python 3.0.12): it waits for unsent messages, raises because they were
    not sent in time, and leaves the sender thread running.
    """
    sender = producer._sender
    sender.force_close()
    sender.join(FORCE_CLOSE_TIMEOUT)
    with suppress(KafkaError):
        producer.close(timeout=0)


def last_refusal(
    client: KafkaProducer | KafkaConsumer | KafkaAdminClient, error: Exception | None = None
) -> BrokerRefusedError | None:
    """Return the last refusal of the client by a broker that has not accepted it since; None if there is none.

    The client's own calls raise only that no broker answered, or that one refused, but not which one. ``error`` is such
    an exception. It may reach the caller before the refusal is recorded; the advice then names all configured brokers.
    """
    network = client._sender._client if isinstance(client, KafkaProducer) else client._client
    refusals: list[BrokerRefusedError] = list(network._manager.refusals.values())
    if refusals:
        return refusals[-1]
    right = {KafkaProducer: Right.WRITE, KafkaConsumer: Right.READ}.get(type(client), "a right")
    return refusal_from(error, *connection_in_words(client), right)


def connection_in_words(client: KafkaProducer | KafkaConsumer | KafkaAdminClient) -> tuple[str, str]:
    """Return the configured brokers and the login of the client, for advice."""
    return f"the broker {', '.join(client.config['bootstrap_servers'])}", describe_login(client.config)


def has_coordinator(consumer: KafkaConsumer) -> bool:
    """Return True if the group's coordinator is known and responds, as far as the client can detect.

    Raises BrokerRefusedError if a broker has refused the client.
    """
    refusal = last_refusal(consumer)
    if refusal is not None:
        raise refusal
    coordinator = consumer._coordinator
    # The client considers a coordinator as known until a request to it has failed. A JoinGroup request may take as
    # long as the slowest member of the group, so other signs of life count: heartbeats, or refreshed metadata.
    if coordinator.stable():
        responds = not coordinator.heartbeat.session_timeout_expired()
    else:
        metadata_age = time.monotonic() - coordinator._cluster._last_successful_refresh_ms / 1000
        responds = metadata_age < (METADATA_AGE_MS + METADATA_DELAY_MS) / 1000
    return responds and not coordinator.coordinator_unknown()


def topic_id(consumer: KafkaConsumer, topic: str) -> str | None:
    """Return the id of ``topic`` in the client's last metadata, in hexadecimal; None if it does not exist there.

    A topic that is deleted and created again has another id (KIP-516).
    """
    found = consumer._client.cluster.topic_id(topic)
    return None if found is None else found.hex


def current_position(consumer: KafkaConsumer, topic_partition: TopicPartition) -> int | None:
    """Return the offset that the client fetches next, without a request; None if it is not known now.

    When the log has been truncated, the client goes back to the end of the part that it recognises, without a notice.
    """
    state = consumer._subscription.assignment.get(topic_partition)
    return None if state is None or state._position is None else int(state._position.offset)


def connection_losses(consumer: KafkaConsumer) -> int:
    """Return how many connections to brokers were lost. Another broker process, with another log, may answer next."""
    return int(consumer._client._manager.losses)


def known_partitions(consumer: KafkaConsumer, topic: str) -> set[int]:
    """Return the partitions of ``topic`` in the client's last metadata; empty if it does not exist there.

    Raises TopicAuthorizationFailedError if the broker does not show the topic to this client.
    """
    cluster = consumer._client.cluster
    if topic in cluster.unauthorized_topics:
        raise TopicAuthorizationFailedError({topic})
    return set(cluster.partitions_for_topic(topic) or ())


def request_partitions(consumer: KafkaConsumer, topics: Iterable[str]) -> list[set[int]]:
    """Request the partitions of each topic; empty for a topic that does not exist.

    Raises kafka-python's exceptions, among them TopicAuthorizationFailedError as ``known_partitions``. The consumer's
    own method does not request a topic by its name, and so does not distinguish a hidden topic from a missing one.
    """
    names = tuple(topics)
    cluster = consumer._cluster
    in_flight = bool(cluster.metadata_refresh_in_progress)
    for topic in names:
        cluster.add_topic(topic)
    for _ in range(1 + in_flight):  # a request that was sent before does not name the topics
        with suppress(UnknownTopicOrPartitionError):
            consumer._net.run(consumer._manager.wait_for, cluster.request_update(), REQUEST_MS)
    return [known_partitions(consumer, topic) for topic in names]


def topics_unknown_to(admin: KafkaAdminClient, broker_id: int, topics: Iterable[str]) -> set[str]:
    """Return those of the topics that this broker does not know yet.

    Raises kafka-python's exceptions if the broker cannot be reached.
    """
    names = set(topics)
    request = MetadataRequest(
        topics=[MetadataRequest.MetadataRequestTopic(name=name) for name in sorted(names)],
        allow_auto_topic_creation=False,
        include_cluster_authorized_operations=False,  # typos: allow
        include_topic_authorized_operations=False,  # typos: allow
    )

    async def ask() -> Any:
        return await admin._manager.send(request, node_id=broker_id)

    return names - {topic.name for topic in admin._manager.run(ask).topics if topic.error_code == 0}


def is_joining(consumer: KafkaConsumer) -> bool:
    """Return True while a join of the group is in progress or due: poll without pauses, and long, until it is done.

    kafka-python 3.0.12 discards a join that completes while no poll is running, and starts it again. Short polls with
    pauses between them can therefore rejoin for ever, and make the whole group rebalance each time.
    """
    coordinator = consumer._coordinator
    return bool(coordinator._join_task is not None or coordinator.need_rejoin())


def finish_interrupted_join(consumer: KafkaConsumer) -> None:
    """Prevent a member from stalling for ever after a poll that ended during a join. Call after each poll.

    When the group leader rejoins because a topic's metadata changed, and the poll times out before the join is done,
    the next poll of kafka-python 3.0.12 finds the metadata unchanged and never completes the join: heartbeats stay off
    and commits fail, without any error. A request to rejoin makes the client complete the join, or start it again.
    """
    coordinator = consumer._coordinator
    if coordinator._join_task is not None and not coordinator.need_rejoin():
        coordinator.request_rejoin()
