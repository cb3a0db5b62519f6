"""What a Kafka node is told in its server.properties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from devstack.kafka_access import Access
from devstack.process import free_port

HOST = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where a node listens. Ports that are not given are picked once, with the object."""

    client: int = field(default_factory=free_port)
    internal: int = field(default_factory=free_port)
    """For the other brokers and for whoever starts this one; in plain text, whatever clients are asked for."""
    controller: int = field(default_factory=free_port)


@dataclass(frozen=True)
class Membership:
    """A node's place in a cluster of several."""

    node_id: int
    cluster_id: str
    controllers: Mapping[int, int]
    """The controllers' ports of all nodes, by node id."""

    @property
    def replicas(self) -> int:
        """Of each partition: three, as in production, where there are as many nodes."""
        return min(3, len(self.controllers))


def server_properties(
    ports: Ports, log_dir: Path, *, advertised_port: int, access: Access, membership: Membership | None
) -> dict[str, object]:
    """The settings of one combined broker and controller, whose clients are sent to `advertised_port`."""
    return {
        **_listeners(ports, advertised_port, access),
        **access.properties(),
        **_quorum(ports, membership),
        **_replication(1 if membership is None else membership.replicas),
        "process.roles": "broker,controller",
        "log.dirs": log_dir,
        "auto.create.topics.enable": "false",
        # Groups form at once, and tests may let members time out quickly.
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1000,
        # After a crash the broker is let in again only when its old session is over: seconds, not the usual nine.
        "broker.session.timeout.ms": 3000,
        "broker.heartbeat.interval.ms": 500,
        # And a broker that hangs keeps the others waiting for as long as this, not for the usual half minute.
        "replica.socket.timeout.ms": 3000,
        "controller.socket.timeout.ms": 3000,
        "log.cleaner.dedupe.buffer.size": 4 * 1024 * 1024,
    }


def _listeners(ports: Ports, advertised_port: int, access: Access) -> dict[str, object]:
    return {
        "listeners": f"CLIENT://{HOST}:{ports.client},INTERNAL://{HOST}:{ports.internal},"
        f"CONTROLLER://{HOST}:{ports.controller}",
        "advertised.listeners": f"CLIENT://{HOST}:{advertised_port},INTERNAL://{HOST}:{ports.internal}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "INTERNAL",
        "listener.security.protocol.map": f"CLIENT:{access.protocol},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
    }


def _quorum(ports: Ports, membership: Membership | None) -> dict[str, object]:
    if membership is None:
        return {"node.id": 1, "controller.quorum.bootstrap.servers": f"{HOST}:{ports.controller}"}
    voters = ",".join(f"{node_id}@{HOST}:{port}" for node_id, port in membership.controllers.items())
    return {"node.id": membership.node_id, "controller.quorum.voters": voters}


def _replication(replicas: int) -> dict[str, object]:
    """For topics that do not say it themselves, and for internal ones, which have few partitions, made on first use."""
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
