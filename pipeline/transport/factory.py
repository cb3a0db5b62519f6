"""Opens the transport that the settings ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.transport.embedded import EmbeddedTransport
from pipeline.transport.protocol import Topic, Transport

if TYPE_CHECKING:
    from config import KafkaSettings, Settings

DAY = 86_400.0


def topics(kafka: KafkaSettings, retention: float) -> tuple[Topic, ...]:
    """Every topic of the service. ``retention``: s for which jobs and results are kept."""
    return (
        Topic(kafka.task_topic, retention),
        Topic(kafka.result_topic, retention),
        Topic(kafka.event_topic, DAY, reports=True),
        Topic(kafka.dead_letter_topic, None),
    )


def open_transport(settings: Settings, *, max_poll_interval_ms: int, publish_timeout: float | None = None) -> Transport:
    """The embedded engine, or Kafka when ``KAFKA_BOOTSTRAP_SERVERS`` is set.

    ``max_poll_interval_ms``: the service's default. ``publish_timeout``: s; None: the setting.
    """
    kafka = settings.kafka
    if kafka.bootstrap_servers is None:
        return EmbeddedTransport(
            settings.state.broker_file,
            lease=settings.state.lease_seconds,
            publish_timeout=publish_timeout or kafka.publish_timeout,
        )
    from pipeline.transport.kafka import KafkaTransport  # costs a second of import that embedded users need not pay

    return KafkaTransport(
        kafka.bootstrap_servers,
        max_poll_interval_ms=kafka.max_poll_interval_ms or max_poll_interval_ms,
        session_timeout_ms=kafka.session_timeout_ms,
        publish_timeout=publish_timeout or kafka.publish_timeout,
        partitions=kafka.partitions,
        replication_factor=kafka.replication_factor,
    )
