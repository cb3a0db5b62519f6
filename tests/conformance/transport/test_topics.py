"""Tests of topics that are missing, young or rejected, and of brokers that advertise a wrong address."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from devstack.kafka.broker import KafkaBroker
from devstack.processes.process import free_port
from pipeline.errors import InfrastructureError, RefusedError
from pipeline.transport.kafka import member
from pipeline.transport.kafka.transport import KafkaTransport
from pipeline.transport.protocol import Message, Topic
from tests.conformance.transport import backends

pytestmark = backends.NEEDS_KAFKA


@pytest.fixture
def transport(kafka_broker: KafkaBroker) -> Iterator[KafkaTransport]:
    transport = KafkaTransport(kafka_broker.bootstrap_servers, publish_timeout=20.0, partitions=1)
    yield transport
    transport.close()


@pytest.fixture
def name() -> str:
    return f"jobs-{uuid.uuid4().hex[:12]}"


def test_deleted_topic_is_reported_until_it_exists_again(
    kafka_broker: KafkaBroker, transport: KafkaTransport, name: str
) -> None:
    topic = Topic(name, retention=3600)
    transport.ensure_topics([topic])
    transport.check()
    with kafka_broker.admin() as admin:
        admin.delete_topics([name])
    with pytest.raises(InfrastructureError, match=rf"the broker has no topic {name}: .*make_topics"):
        transport.check()
    transport.ensure_topics([topic])
    transport.check()


def test_unknown_topic_of_a_subscription_is_no_outage_at_first(
    transport: KafkaTransport, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "ERROR_PAUSE", 0.05)
    subscription = transport.subscribe([name], f"group-of-{name}")
    for _ in range(5):
        assert subscription.receive(0.2) is None
    transport.ensure_topics([Topic(name, retention=3600)])
    transport.publish(Message(name, "k", b"job"))
    delivery = subscription.receive(60)
    assert delivery is not None


def test_too_many_replicas_name_the_setting(kafka_broker: KafkaBroker, name: str) -> None:
    transport = KafkaTransport(kafka_broker.bootstrap_servers, replication_factor=3)
    with pytest.raises(InfrastructureError, match=r"KAFKA_REPLICATION_FACTOR.*only 1 broker") as raised:
        transport.ensure_topics([Topic(name, retention=3600)])
    transport.close()
    # Not for good: the other brokers may be starting.
    assert not isinstance(raised.value, RefusedError)


@pytest.mark.parametrize("illegal", ["uvr tasks", "a/b", "x" * 250])
def test_illegal_name_is_rejected_for_good_and_names_the_setting(transport: KafkaTransport, illegal: str) -> None:
    with pytest.raises(RefusedError) as raised:
        transport.ensure_topics([Topic(illegal, retention=3600)])
    assert "KAFKA_TASK_TOPIC" in raised.value.advice
    assert illegal in raised.value.advice


@pytest.mark.slow
def test_wrong_advertised_listener_is_named(tools_dir: Path, tmp_path: Path) -> None:
    nowhere = free_port()
    with KafkaBroker(tools_dir, tmp_path, advertised_port=nowhere) as broker:
        transport = KafkaTransport(f"127.0.0.1:{broker.port}")
        with capture_logs() as log, pytest.raises(InfrastructureError):
            transport.ensure_topics([Topic("jobs", retention=3600)])
        transport.close()
    unreachable = [line for line in log if line["event"] == "broker_unreachable"]
    assert [line["address"] for line in unreachable] == [f"127.0.0.1:{nowhere}"]
    assert unreachable[0]["reason"] == "connection refused"
    assert "advertised.listeners" in unreachable[0]["check"]
