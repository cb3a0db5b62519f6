"""Opens the transport that the settings ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.transport.embedded.transport import EmbeddedTransport
from pipeline.transport.protocol import Transport

if TYPE_CHECKING:
    from config import Settings


def open_transport(settings: Settings, *, max_poll_interval_ms: int, publish_timeout: float | None = None) -> Transport:
    """The embedded engine, or Kafka when ``KAFKA_BOOTSTRAP_SERVERS`` is set.

    ``max_poll_interval_ms``: the service's default. ``publish_timeout``: s; None: the setting.
    Nothing is asked of the broker yet. Raises ConfigError for a certificate or key that cannot be used.
    """
    kafka = settings.kafka
    if kafka.bootstrap_servers is None:
        return EmbeddedTransport(
            settings.state.broker_file,
            lease=settings.state.lease_seconds,
            publish_timeout=publish_timeout or kafka.publish_timeout,
        )
    # They cost a second of import that embedded users need not pay.
    from pipeline.transport.kafka.security import KafkaSecurity
    from pipeline.transport.kafka.transport import KafkaTransport

    return KafkaTransport(
        kafka.bootstrap_servers,
        max_poll_interval_ms=kafka.max_poll_interval_ms or max_poll_interval_ms,
        session_timeout_ms=kafka.session_timeout_ms,
        publish_timeout=publish_timeout or kafka.publish_timeout,
        partitions=kafka.partitions,
        replication_factor=kafka.replication_factor,
        min_insync_replicas=kafka.min_insync_replicas,
        security=KafkaSecurity.from_settings(kafka),
    )
