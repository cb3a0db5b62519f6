"""Several real Kafka nodes that are one cluster, so that one of them can die."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from devstack.kafka import KafkaBroker
from devstack.kafka_access import Access
from devstack.kafka_settings import Membership
from devstack.kafka_storage import new_cluster_id, stored_cluster_id
from devstack.process import free_port


class KafkaCluster:
    """Combined brokers and controllers on loopback, whose data outlive them; topics have three replicas, two in sync.

    Each of `brokers` is started, stopped, killed and paused on its own; most of them are needed for the cluster to
    serve, and for the `start` of any to return. `advertised_ports`: one for each broker, where it sends its clients,
    for a proxy in front of each; what brokers say to each other does not pass there.
    """

    def __init__(
        self,
        tools_dir: Path,
        data_dir: Path,
        *,
        size: int = 3,
        advertised_ports: Sequence[int] | None = None,
        access: Access | None = None,
    ) -> None:
        folders = {node_id: data_dir / f"broker-{node_id}" for node_id in range(1, size + 1)}
        stored = (stored_cluster_id(folder / "log") for folder in folders.values())
        cluster_id = next((found for found in stored if found is not None), None) or new_cluster_id()
        controllers = {node_id: free_port() for node_id in folders}
        advertised: Sequence[int | None] = advertised_ports or [None] * size
        self.brokers = tuple(
            KafkaBroker(
                tools_dir,
                folder,
                controller_port=controllers[node_id],
                advertised_port=port,
                access=access,
                membership=Membership(node_id, cluster_id, controllers),
            )
            for (node_id, folder), port in zip(folders.items(), advertised, strict=True)
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def bootstrap_servers(self) -> str:
        """Every broker, as clients are told where it is."""
        return ",".join(broker.bootstrap_servers for broker in self.brokers)

    def start(self) -> None:
        """Start those that do not run, side by side; return when all of them serve.

        Raises ToolUnavailableError, ServerStartError; none is left running then.
        """
        try:
            self._each(KafkaBroker.start)
        except BaseException:  # an interrupt too must leave nothing behind
            self.kill()
            raise

    def stop(self) -> None:
        """End them in good order, side by side."""
        self._each(KafkaBroker.stop)

    def kill(self) -> None:
        """End them all with SIGKILL, as when the power goes."""
        self._each(KafkaBroker.kill)

    def broker(self, node_id: int) -> KafkaBroker:
        """The broker that the cluster's metadata name `node_id`."""
        return self.brokers[node_id - 1]

    def _each(self, action: Callable[[KafkaBroker], None]) -> None:
        with ThreadPoolExecutor(len(self.brokers)) as pool:
            list(pool.map(action, self.brokers))
