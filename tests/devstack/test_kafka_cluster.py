"""Test a cluster of several brokers, also after all of them were killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer

from devstack.kafka.cluster import KafkaCluster
from devstack.processes.process import free_port
from tests.support.servers import require
from tests.support.topic_settings import topic_setting
from tests.support.traffic import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture
def cluster(tools_dir: Path, tmp_path: Path) -> Iterator[KafkaCluster]:
    cluster = KafkaCluster(tools_dir, tmp_path, advertised_ports=[free_port() for _ in range(3)])
    require(cluster.start)
    yield cluster
    cluster.kill()


def test_topics_are_replicated_and_survive_the_death_of_all_brokers(
    cluster: KafkaCluster, tools_dir: Path, tmp_path: Path
) -> None:
    with cluster.brokers[0].admin() as admin:
        admin.create_topics(["kept"])  # with the defaults of the cluster
        wait_until(lambda: replicas(admin, "kept") == {3})
        assert topic_setting(admin, "kept", "min.insync.replicas") == "2"
        cluster_id = admin.describe_cluster()["cluster_id"]
    assert advertised_addresses(cluster) == set(cluster.bootstrap_servers.split(","))

    cluster.kill()
    again = KafkaCluster(tools_dir, tmp_path)
    with again, again.brokers[2].admin() as admin:
        assert admin.describe_cluster()["cluster_id"] == cluster_id
        assert "kept" in admin.list_topics()


def replicas(admin: KafkaAdminClient, topic: str) -> set[int]:
    """Return the numbers of replicas of the partitions; empty until the broker knows the topic."""
    (found,) = admin.describe_topics([topic])
    return {len(partition["replica_nodes"]) for partition in found["partitions"]}


def advertised_addresses(cluster: KafkaCluster) -> set[str]:
    """Return the addresses that a broker gives to a client that bypasses the proxies."""
    with KafkaConsumer(bootstrap_servers=f"127.0.0.1:{cluster.brokers[0].port}") as consumer:
        return {f"{broker.host}:{broker.port}" for broker in consumer._client.cluster.brokers()}
