"""The Kafka engine, on kafka-python: for services on more than one machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from kafka import KafkaAdminClient, KafkaConsumer

from pipeline.transport.kafka.client import KafkaClientFactory, last_refusal
from pipeline.transport.kafka.errors import CLIENT_ERRORS, translate_kafka_error, translated_kafka_errors
from pipeline.transport.kafka.partitions import HeldMessage
from pipeline.transport.kafka.producer import Producer, ReportSender
from pipeline.transport.kafka.reader import find_missing, read_topic
from pipeline.transport.kafka.security import KafkaSecurity
from pipeline.transport.kafka.subscription import KafkaSubscription
from pipeline.transport.kafka.topics import TopicLayout, create_missing_topics, reconcile_topic, require_topics
from pipeline.transport.protocol import Message, StoredMessage, Topic


class KafkaTransport:
    """A ``Transport`` (see ``pipeline.transport.protocol``) on Kafka.

    ``publish_timeout``: time after which ``publish`` fails, s. ``partitions``, ``replication_factor`` and
    ``min_insync_replicas`` apply to topics that are created; see ``TopicLayout``. ``security``: plain text by default.

    If a broker refuses this service, the methods raise RefusedError where they raise InfrastructureError otherwise.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        max_poll_interval_ms: int = 300_000,
        session_timeout_ms: int = 30_000,
        publish_timeout: float = 30.0,
        partitions: int = 12,
        replication_factor: int = 1,
        min_insync_replicas: int | None = None,
        security: KafkaSecurity | None = None,
    ) -> None:
        self._clients = KafkaClientFactory(
            bootstrap_servers,
            publish_timeout,
            max_poll_interval_ms,
            session_timeout_ms,
            security=security or KafkaSecurity(),
        )
        self._layout = TopicLayout(partitions, replication_factor, min_insync_replicas)
        self._producer = Producer(self._clients)
        self._reports = ReportSender(self._producer)
        #: The topics that must exist, once they were created, by name.
        self._required_topics: dict[str, Topic] = {}
        self._admin: KafkaAdminClient | None = None
        self._admin_lock = threading.Lock()
        self._subscriptions: list[KafkaSubscription] = []

    def ensure_topics(self, topics: Sequence[Topic]) -> None:
        """Create missing topics with the layout of this transport; existing topics are left unchanged."""
        with self._connected_admin() as admin:
            create_missing_topics(admin, self._layout, topics)
            self._required_topics |= {topic.name: topic for topic in topics}

    def reconcile_topic(self, topic: Topic, *, align: bool) -> str:
        """Create ``topic`` or add its missing partitions; with ``align`` also update its configuration.

        Returns one line with the changes. Raises InfrastructureError.
        """
        with self._connected_admin() as admin:
            return reconcile_topic(admin, self._layout, topic, align=align)

    def publish(self, *messages: Message) -> None:
        """Send the messages; returns when all in-sync replicas have them."""
        self._producer.publish(messages)

    def publish_probed(self, *messages: Message, probe: Message) -> None:
        """Publish ``probe`` first, and the messages only if the broker confirmed it in time."""
        self._producer.publish_probed(messages, probe)

    def emit(self, *messages: Message) -> None:
        """Queue the messages for a background thread; they are dropped if its queue is full."""
        self._reports.put(messages)

    def subscribe(
        self, topics: Sequence[str], group: str, *, weights: Mapping[str, int] | None = None
    ) -> KafkaSubscription:
        """Start a member of the consumer group ``group``; it joins in the background."""
        subscription = KafkaSubscription(
            lambda busy: self._clients.consumer(group, busy),
            self.publish,
            self._find_missing,
            topics,
            weights or {},
            self._clients.publish_timeout,
        )
        self._subscriptions.append(subscription)
        return subscription

    def browse(self, topic: str) -> Iterator[StoredMessage]:
        """Read the topic with a consumer without a group, up to the end offsets of its first request."""
        with self._reader() as reader:
            yield from read_topic(reader, topic, self._clients.publish_timeout)

    def _find_missing(self, held: Sequence[HeldMessage]) -> list[Message] | None:
        with self._reader() as reader:
            return find_missing(reader, held, self._clients.publish_timeout)

    @contextmanager
    def _reader(self) -> Iterator[KafkaConsumer]:
        """Yield a consumer without a group, whose errors are raised in their classified form."""
        with translated_kafka_errors():
            reader = self._clients.reader()
        try:
            yield reader
        except CLIENT_ERRORS as error:
            raise translate_kafka_error(last_refusal(reader, error) or error) from error
        finally:
            reader.close(autocommit=False)

    def check(self) -> None:
        """Request a description of the cluster, and the topics that ``ensure_topics`` has created.

        Raises InfrastructureError if one of them was deleted, RefusedError if a right to one was revoked.
        """
        with self._connected_admin() as admin:
            admin.describe_cluster()
            require_topics(admin, tuple(self._required_topics.values()))

    def close(self) -> None:
        """Leave all groups, send buffered messages, and close all connections."""
        for subscription in self._subscriptions:
            subscription.close()
        self._reports.close()
        self._producer.close()
        with self._admin_lock:
            self._discard_admin()

    @contextmanager
    def _connected_admin(self) -> Iterator[KafkaAdminClient]:
        """Yield the admin client, for one thread at a time. A failed client is replaced on the next use."""
        with self._admin_lock:
            try:
                if self._admin is None:
                    self._admin = self._clients.admin()
                yield self._admin
            except CLIENT_ERRORS as error:
                refusal = None if self._admin is None else last_refusal(self._admin, error)
                self._discard_admin()
                raise translate_kafka_error(refusal or error) from error

    def _discard_admin(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            with suppress(*CLIENT_ERRORS):
                admin.close()
