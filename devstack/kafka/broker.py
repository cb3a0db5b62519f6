"""Run a real Apache Kafka: one combined broker and controller (KRaft) on loopback."""

import socket
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from devstack.kafka.access import Access
from devstack.kafka.settings import HOST, Membership, Ports, server_properties
from devstack.kafka.storage import format_storage, new_cluster_id, stored_cluster_id
from devstack.processes.process import ServerProcess, free_port
from devstack.processes.server import LocalServer, server_environment
from devstack.tools.java import find_java, properties_text
from devstack.tools.maven import fetch_jars
from devstack.tools.pins import KAFKA_LOG4J_VERSION, KAFKA_SCALA_VERSION, KAFKA_VERSION
from pipeline.transport.kafka.network import create_client

_HERE = Path(__file__).parent
_MAX_HEAP = "512m"
_MAX_HEAP_IN_CLUSTER = "384m"
_CONNECT_SECONDS = 1.0
_REQUEST_MILLISECONDS = 5_000


def fetch_kafka(tools_dir: Path) -> Path:
    """Return the folder with Kafka's jars; Maven fetches it if necessary. Raises ToolUnavailableError."""
    versions = {
        "kafka.version": KAFKA_VERSION,
        "kafka.scala.version": KAFKA_SCALA_VERSION,
        "kafka.log4j.version": KAFKA_LOG4J_VERSION,
    }
    return fetch_jars(_HERE / "pom.xml", tools_dir, f"kafka-{KAFKA_VERSION}", versions)


class KafkaBroker(LocalServer):
    """A Kafka node that keeps its log in `data_dir` and listens on 127.0.0.1 only.

    Ports that are not given are chosen once and kept over restarts of this object; another object may use the same
    data on other ports. The broker does not create topics automatically.

    `advertised_port`: the port that the broker names to its clients, for a proxy in front of it. `access`: encryption
    and authentication of clients; none by default. `membership`: the node's place in a cluster; None: a single node.
    """

    def __init__(
        self,
        tools_dir: Path,
        data_dir: Path,
        port: int | None = None,
        controller_port: int | None = None,
        *,
        advertised_port: int | None = None,
        access: Access | None = None,
        membership: Membership | None = None,
        log_file: Path | None = None,
    ) -> None:
        super().__init__()
        self._ports = Ports(client=port or free_port(), controller=controller_port or free_port())
        self.advertised_port = advertised_port or self.port
        self.access = access or Access()
        self._membership = membership
        self._tools_dir = tools_dir
        self._data_dir = data_dir.absolute()
        self._log_file = log_file or self._data_dir / "kafka.log"

    @property
    def port(self) -> int:
        """The port for clients. `bootstrap_servers` contains the advertised port instead."""
        return self._ports.client

    @property
    def bootstrap_servers(self) -> str:
        """The address that the broker advertises to its clients."""
        return f"{HOST}:{self.advertised_port}"

    @property
    def node_id(self) -> int:
        """The node's id in the metadata of the cluster."""
        return 1 if self._membership is None else self._membership.node_id

    def start(self) -> None:
        super().start()
        if self.access.stored_mechanisms:
            with self.admin() as admin:
                self.access.store_passwords(admin)

    def admin(self) -> KafkaAdminClient:
        """Open a client with all rights, past proxies and without credentials. Raises kafka-python's errors."""
        return create_client(
            KafkaAdminClient,
            bootstrap_servers=f"{HOST}:{self._ports.internal}",
            bootstrap_timeout_ms=_REQUEST_MILLISECONDS,
            request_timeout_ms=_REQUEST_MILLISECONDS,
        )

    def _prepare(self) -> ServerProcess:
        java = [
            *find_java(self._tools_dir).command(
                max_heap=_MAX_HEAP if self._membership is None else _MAX_HEAP_IN_CLUSTER
            ),
            f"-Dlog4j2.configurationFile={_HERE / 'log4j2.properties'}",
            *("-cp", f"{fetch_kafka(self._tools_dir)}/*"),
        ]
        self._data_dir.mkdir(parents=True, exist_ok=True)
        settings = self._write_settings()
        cluster_id = stored_cluster_id(self._log_dir)
        if cluster_id is None:
            options = ["--standalone"] if self._membership is None else []
            cluster_id = new_cluster_id() if self._membership is None else self._membership.cluster_id
            format_storage(java, settings, cluster_id, *options)
        return ServerProcess(
            "Kafka",
            [*java, "kafka.Kafka", str(settings)],
            log_file=self._log_file,
            ready=lambda: self._serves(cluster_id),
            env=server_environment(),
            cwd=self._data_dir,  # a crashed JVM writes its report there
            ports=(self._ports.client, self._ports.internal, self._ports.controller),
        )

    def _write_settings(self) -> Path:
        settings = server_properties(
            self._ports,
            self._log_dir,
            advertised_port=self.advertised_port,
            access=self.access,
            membership=self._membership,
        )
        path = self._data_dir / "server.properties"
        path.touch(mode=0o600)  # it may contain passwords
        path.write_text(properties_text(settings), encoding="utf-8")
        return path

    @property
    def _log_dir(self) -> Path:
        return self._data_dir / "log"

    def _serves(self, cluster_id: str) -> bool:
        """Return True if this cluster answers and this broker is registered and not fenced."""
        try:
            # Fails fast, and logs nothing, while the port is closed.
            socket.create_connection((HOST, self._ports.internal), _CONNECT_SECONDS).close()
            with self.admin() as admin:
                cluster = admin.describe_cluster()
        except (OSError, KafkaError):
            return False
        serving = [broker["broker_id"] for broker in cluster["brokers"] if not broker["is_fenced"]]
        return bool(cluster["cluster_id"] == cluster_id and self.node_id in serving)
