"""The Kafka engine, on kafka-python: what everything beyond one machine uses."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from kafka import KafkaAdminClient

from pipeline.transport.kafka.client import KafkaClients, refusal_of
from pipeline.transport.kafka.errors import CLIENT_ERRORS, translate_kafka_error, translated_kafka_errors
from pipeline.transport.kafka.producer import Producer, Reports
from pipeline.transport.kafka.reader import read_all
from pipeline.transport.kafka.security import KafkaSecurity
from pipeline.transport.kafka.subscription import KafkaSubscription
from pipeline.transport.kafka.topics import KafkaTopics, TopicLayout
from pipeline.transport.protocol import Message, Stored, Topic


class KafkaTransport:
    """See ``pipeline.transport.protocol.Transport``.

    ``publish_timeout``: s after which ``publish`` gives up. ``partitions``, ``replication_factor``,
    ``min_insync_replicas``: of topics that are created; see ``TopicLayout``. ``security``: plain text if it is not given.

    A broker that turns this service away is a RefusedError wherever InfrastructureErrors are raised.
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
        self._clients = KafkaClients(
            bootstrap_servers,
            publish_timeout,
            max_poll_interval_ms,
            session_timeout_ms,
            security=security or KafkaSecurity(),
        )
        self._layout = TopicLayout(partitions, replication_factor, min_insync_replicas)
        self._producer = Producer(self._clients)
        self._reports = Reports(self._producer)
        self._admin: KafkaAdminClient | None = None
        self._admin_lock = threading.Lock()
        self._subscriptions: list[KafkaSubscription] = []

    def ensure_topics(self, topics: Sequence[Topic]) -> None:
        with self._connected_admin() as admin:
            KafkaTopics(admin, self._layout).create_missing(topics)

    def lay_out(self, topic: Topic, *, align: bool) -> str:
        """Create ``topic`` or add the partitions that it lacks; ``align``: change its settings, too, if they differ.

        Returns one line about what was done. Raises InfrastructureError.
        """
        with self._connected_admin() as admin:
            return KafkaTopics(admin, self._layout).lay_out(topic, align=align)

    def publish(self, *messages: Message) -> None:
        self._producer.publish(messages)

    def offer(self, *messages: Message, trial: Message) -> None:
        self._producer.offer(messages, trial)

    def emit(self, *messages: Message) -> None:
        self._reports.put(messages)

    def subscribe(
        self, topics: Sequence[str], group: str, *, weights: Mapping[str, int] | None = None
    ) -> KafkaSubscription:
        subscription = KafkaSubscription(
            lambda busy: self._clients.consumer(group, busy),
            self.publish,
            topics,
            weights or {},
            self._clients.publish_timeout,
        )
        self._subscriptions.append(subscription)
        return subscription

    def browse(self, topic: str) -> Iterator[Stored]:
        with translated_kafka_errors():
            reader = self._clients.reader()
        try:
            with translated_kafka_errors():
                yield from read_all(reader, topic, self._clients.publish_timeout)
        finally:
            reader.close(autocommit=False)

    def check(self) -> None:
        with self._connected_admin() as admin:
            admin.describe_cluster()

    def close(self) -> None:
        for subscription in self._subscriptions:
            subscription.close()
        self._reports.close()
        self._producer.close()
        with self._admin_lock:
            self._discard_admin()

    @contextmanager
    def _connected_admin(self) -> Iterator[KafkaAdminClient]:
        """The admin client, for one thread at a time; made anew after a failure."""
        with self._admin_lock:
            try:
                if self._admin is None:
                    self._admin = self._clients.admin()
                yield self._admin
            except CLIENT_ERRORS as error:
                refusal = None if self._admin is None else refusal_of(self._admin)
                self._discard_admin()
                raise translate_kafka_error(refusal or error) from error

    def _discard_admin(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            with suppress(*CLIENT_ERRORS):
                admin.close()
