"""A job that takes far longer than the group's patience with a member that does not poll.

UVR_TEST_LONG_JOB_MINUTES=30 makes it as long as it gets.
"""

from __future__ import annotations

import os

import pytest

from devstack.kafka import KafkaBroker
from pipeline.service import metrics
from pipeline.transport.kafka.transport import KafkaTransport
from pipeline.transport.protocol import Message, Topic
from tests.conformance.transport.backends import NEEDS_KAFKA

#: What people set.
MAX_POLL_INTERVAL_MS = 50_000
SECONDS = 60 * float(os.environ.get("UVR_TEST_LONG_JOB_MINUTES", "1"))
PATIENCE = 30.0

pytestmark = [pytest.mark.timeout(SECONDS + 1200), *NEEDS_KAFKA, pytest.mark.slow]


def partitions_that_moved() -> float:
    changes = ("assigned", "revoked", "lost")
    return float(sum(metrics.rebalances.labels(change)._value.get() for change in changes))


def test_it_causes_neither_a_rebalance_nor_a_redelivery(kafka_broker: KafkaBroker, topic: str, group: str) -> None:
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
        delivery = worker.receive(PATIENCE)
        assert delivery is not None
        other = idle.subscribe([topic], group)
        before = -1.0
        while before != (before := partitions_that_moved()):  # until the group has found its shape
            assert other.receive(5.0) is None

        assert not delivery.cancel.wait(SECONDS)

        assert other.receive(0.1) is None
        assert partitions_that_moved() == before
        worker.settle(delivery)
        busy.close()
        assert other.receive(PATIENCE / 3) is None
    finally:
        busy.close()
        idle.close()


@pytest.fixture
def topic() -> str:
    return f"long-{os.getpid()}"
