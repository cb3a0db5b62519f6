"""Build the server.properties of a Kafka node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from devstack.kafka.access import Access
from devstack.processes.process import free_port

HOST = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The ports of a node. Ports that are not given are chosen when the object is created."""

    client: int = field(default_factory=free_port)
    internal: int = field(default_factory=free_port)
    """For the other brokers and for this package; always in plain text and without authentication."""
    controller: int = field(default_factory=free_port)


@dataclass(frozen=True)
class Membership:
    """A node's place in a cluster of several nodes."""

    node_id: int
    cluster_id: str
    controllers: Mapping[int, int]
    """The controller ports of all nodes, by node id."""

    @property
    def replicas(self) -> int:
        """The number of replicas of each partition: three, as in production, or fewer in a smaller cluster."""
        return min(3, len(self.controllers))


def server_properties(
    ports: Ports, log_dir: Path, *, advertised_port: int, access: Access, membership: Membership | None
) -> dict[str, object]:
    """Return the properties of a combined broker and controller that advertises `advertised_port` to its clients."""
    if membership is None:
        quorum = {"node.id": 1, "controller.quorum.bootstrap.servers": f"{HOST}:{ports.controller}"}
    else:
        voters = ",".join(f"{node_id}@{HOST}:{port}" for node_id, port in membership.controllers.items())
        quorum = {"node.id": membership.node_id, "controller.quorum.voters": voters}
    return {
        "listeners": f"CLIENT://{HOST}:{ports.client},INTERNAL://{HOST}:{ports.internal},"
        f"CONTROLLER://{HOST}:{ports.controller}",
        "advertised.listeners": f"CLIENT://{HOST}:{advertised_port},INTERNAL://{HOST}:{ports.internal}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "INTERNAL",
        "listener.security.protocol.map": f"CLIENT:{access.protocol},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        **access.properties(),
        **quorum,
        **_replication(1 if membership is None else membership.replicas),
        "process.roles": "broker,controller",
        "log.dirs": log_dir,
        "auto.create.topics.enable": "false",
        # Groups form without delay, and tests can use short session timeouts.
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1000,
        # After a crash, the broker can register again only when its old session has expired; the default is 9 s.
        "broker.session.timeout.ms": 3000,
        "broker.heartbeat.interval.ms": 500,
        # The other brokers wait this long for one that hangs; the default is 30 s.
        "replica.socket.timeout.ms": 3000,
        "controller.socket.timeout.ms": 3000,
        "log.cleaner.dedupe.buffer.size": 4 * 1024 * 1024,
    }


def _replication(replicas: int) -> dict[str, object]:
    """Return the defaults of topics. Internal topics get few partitions, since they are created on first use."""
    in_sync = max(1, replicas - 1)
    partitions = max(2, replicas)
    return {
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": replicas,
        "offsets.topic.num.partitions": partitions,
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": partitions,
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": partitions,
    }
