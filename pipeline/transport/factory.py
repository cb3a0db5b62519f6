"""Opens the transport that the settings select."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.transport.embedded.transport import EmbeddedTransport
from pipeline.transport.protocol import Transport

if TYPE_CHECKING:
    from config import Settings


def open_transport(settings: Settings, *, max_poll_interval_ms: int, publish_timeout: float | None = None) -> Transport:
    """Return the embedded engine, or the Kafka engine when ``KAFKA_BOOTSTRAP_SERVERS`` is set.

    ``max_poll_interval_ms`` is the service's default; the setting overrides it. ``publish_timeout`` (s) overrides the
    setting; None keeps it. No request is sent to the broker yet. Raises ConfigError for an unusable certificate or key.
    """
    kafka = settings.kafka
    if kafka.bootstrap_servers is None:
        return EmbeddedTransport(
            settings.state.broker_file,
            lease=settings.state.lease_seconds,
            publish_timeout=publish_timeout or kafka.publish_timeout,
        )
    # Imported here because kafka-python takes 1 s to import, which the embedded engine does not need.
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
