"""Run several real Kafka nodes as one cluster, so that tests can stop one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from devstack.kafka.access import Access
from devstack.kafka.broker import KafkaBroker
from devstack.kafka.settings import Membership
from devstack.kafka.storage import new_cluster_id, stored_cluster_id
from devstack.processes.process import free_port


class KafkaCluster:
    """Combined brokers and controllers on loopback. Topics have three replicas, two of them in sync. Data persist.

    Each of `brokers` can be started, stopped, killed and paused on its own. The cluster serves, and `start` of a broker
    returns, only while a majority of them runs. `advertised_ports`: the port that each broker names to its clients,
    for a proxy in front of each. The traffic between brokers bypasses these proxies.
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
        """The advertised addresses of all brokers."""
        return ",".join(broker.bootstrap_servers for broker in self.brokers)

    def start(self) -> None:
        """Start the brokers that do not run, in parallel; return when all of them serve.

        Raises ToolUnavailableError or ServerStartError, after killing all brokers.
        """
        try:
            self._run_on_all(KafkaBroker.start)
        except BaseException:  # an interrupt must leave no process behind either
            self.kill()
            raise

    def stop(self) -> None:
        """Stop all brokers gracefully, in parallel."""
        self._run_on_all(KafkaBroker.stop)

    def kill(self) -> None:
        """Kill all brokers with SIGKILL, as in a power failure."""
        self._run_on_all(KafkaBroker.kill)

    def broker(self, node_id: int) -> KafkaBroker:
        """Return the broker with this id in the metadata of the cluster."""
        return self.brokers[node_id - 1]

    def _run_on_all(self, action: Callable[[KafkaBroker], None]) -> None:
        with ThreadPoolExecutor(len(self.brokers)) as pool:
            list(pool.map(action, self.brokers))
