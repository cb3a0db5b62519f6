"""Tests of a cluster of three brokers, three replicas, two in sync: crashes of one and of two brokers."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devstack.kafka.broker import KafkaBroker
from devstack.kafka.cluster import KafkaCluster
from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.transport.kafka.transport import KafkaTransport
from pipeline.transport.protocol import Message, Topic
from tests.conformance.transport import backends
from tests.support.servers import require
from tests.support.traffic import PATIENCE, Traffic, wait_until

pytestmark = [*backends.NEEDS_KAFKA, pytest.mark.slow]

#: Number of messages that show that the traffic flows.
SEVERAL = 50
PUBLISH_TIMEOUT = 5.0

Connect = Callable[[], KafkaTransport]


@pytest.fixture(scope="module")
def started_cluster(tools_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    cluster = KafkaCluster(tools_dir, tmp_path_factory.mktemp("cluster"))
    require(cluster.start)
    yield cluster
    cluster.kill()  # its data are no longer needed


@pytest.fixture
def cluster(started_cluster: KafkaCluster) -> Iterator[KafkaCluster]:
    yield started_cluster
    started_cluster.start()


@pytest.fixture
def connect(cluster: KafkaCluster) -> Connect:
    return lambda: KafkaTransport(
        cluster.bootstrap_servers,
        publish_timeout=PUBLISH_TIMEOUT,
        session_timeout_ms=6000,
        partitions=3,
        replication_factor=3,
    )


@pytest.fixture
def topic(cluster: KafkaCluster, connect: Connect) -> str:
    name = f"jobs-{uuid.uuid4().hex[:12]}"
    transport = connect()
    transport.ensure_topics([Topic(name, retention=3600)])
    transport.close()
    for broker in cluster.brokers:  # the brokers learn of the topic one after the other
        wait_until(lambda: in_sync(broker, name) == {3})  # noqa: B023  called immediately
    return name


def partitions(broker: KafkaBroker, topic: str) -> list[dict[str, Any]]:
    with broker.admin() as admin:
        (found,) = admin.describe_topics([topic])
    described: list[dict[str, Any]] = found["partitions"]
    return described


def leader_of_most(cluster: KafkaCluster, topic: str) -> KafkaBroker:
    leaders = Counter(partition["leader_id"] for partition in partitions(cluster.brokers[0], topic))
    return cluster.broker(leaders.most_common(1)[0][0])


def in_sync(broker: KafkaBroker, topic: str) -> set[int]:
    """Return the numbers of in-sync replicas of the partitions, as ``broker`` reports them."""
    return {len(partition["isr_nodes"]) for partition in partitions(broker, topic)}


def test_every_broker_knows_a_topic_once_it_is_created(cluster: KafkaCluster, connect: Connect) -> None:
    name, transport = f"young-{uuid.uuid4().hex[:12]}", connect()
    transport.ensure_topics([Topic(name, retention=3600)])
    transport.close()
    assert [len(partitions(broker, name)) for broker in cluster.brokers] == [3, 3, 3]


def test_crash_of_one_broker_under_load_loses_nothing(cluster: KafkaCluster, connect: Connect, topic: str) -> None:
    victim = leader_of_most(cluster, topic)
    with Traffic(connect, topic, publishers=2) as traffic:
        wait_until(lambda: len(traffic.consumed) > SEVERAL)
        victim.kill()
        published, consumed = len(traffic.published), len(traffic.consumed)
        wait_until(lambda: len(traffic.published) > published + SEVERAL)
        wait_until(lambda: len(traffic.consumed) > consumed + SEVERAL)

        victim.start()
        wait_until(lambda: in_sync(victim, topic) == {3})
        published = len(traffic.published)
        wait_until(lambda: len(traffic.published) > published + SEVERAL)
        traffic.require_all_consumed()


def test_no_message_is_accepted_while_two_brokers_are_down(cluster: KafkaCluster, connect: Connect, topic: str) -> None:
    transport = connect()
    accepted = [value.encode() for value in map(str, range(SEVERAL))]
    transport.publish(*(Message(topic, "k", value) for value in accepted))
    for broker in cluster.brokers[1:]:
        broker.kill()
    with pytest.raises(InfrastructureError) as raised:
        transport.publish(Message(topic, "k", b"no second replica"))
    assert raised.value.code is ErrorCode.BROKER_UNAVAILABLE

    cluster.start()
    subscription = transport.subscribe([topic], f"group-of-{topic}")
    found: list[bytes] = []
    while not set(accepted) <= set(found):
        delivery = subscription.receive(PATIENCE)
        assert delivery is not None, "no further delivery"
        found.append(delivery.message.value)
        subscription.settle(delivery)
    transport.close()
    # In the order of publication; the unconfirmed message may be stored or not.
    assert found[:SEVERAL] == accepted
