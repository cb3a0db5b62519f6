"""Test of a job that takes longer than ``max_poll_interval_ms``.

UVR_TEST_LONG_JOB_MINUTES=30 sets the length of the longest jobs in production.
"""

from __future__ import annotations

import os

import pytest

from devstack.kafka.broker import KafkaBroker
from pipeline.service import metrics
from pipeline.transport.kafka.transport import KafkaTransport
from pipeline.transport.protocol import Message, Topic
from tests.conformance.transport.backends import NEEDS_KAFKA

#: A typical setting.
MAX_POLL_INTERVAL_MS = 50_000
SECONDS = 60 * float(os.environ.get("UVR_TEST_LONG_JOB_MINUTES", "1"))
TIMEOUT = 30.0

pytestmark = [pytest.mark.timeout(SECONDS + 1200), *NEEDS_KAFKA, pytest.mark.slow]


def partition_changes() -> float:
    changes = ("assigned", "revoked", "lost")
    return float(sum(metrics.rebalances.labels(change)._value.get() for change in changes))


def test_long_job_causes_no_rebalance_and_no_redelivery(kafka_broker: KafkaBroker, topic: str, group: str) -> None:
    def connect() -> KafkaTransport:
        return KafkaTransport(
            kafka_broker.bootstrap_servers,
            max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
            session_timeout_ms=6000,
            partitions=2,
        )

    busy, idle = connect(), connect()
    try:
        busy.ensure_topics([Topic(topic, 86_400.0)])
        busy.publish(Message(topic, "song", b"a long one"))
        worker = busy.subscribe([topic], group)
        delivery = worker.receive(TIMEOUT)
        assert delivery is not None
        other = idle.subscribe([topic], group)
        before = -1.0
        while before != (before := partition_changes()):  # until the group is stable
            assert other.receive(5.0) is None

        assert not delivery.cancel.wait(SECONDS)

        assert other.receive(0.1) is None
        assert partition_changes() == before
        worker.settle(delivery)
        busy.close()
        assert other.receive(TIMEOUT / 3) is None
    finally:
        busy.close()
        idle.close()


@pytest.fixture
def topic() -> str:
    return f"long-{os.getpid()}"
