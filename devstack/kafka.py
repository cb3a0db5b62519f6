"""A real Apache Kafka: one combined broker and controller (KRaft) on loopback."""

import socket
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from devstack.java import find_java, properties_text
from devstack.kafka_access import Access
from devstack.kafka_settings import HOST, Membership, Ports, server_properties
from devstack.kafka_storage import format_storage, new_cluster_id, stored_cluster_id
from devstack.maven import fetch_jars
from devstack.pins import KAFKA_LOG4J_VERSION, KAFKA_SCALA_VERSION, KAFKA_VERSION
from devstack.process import ServerProcess, free_port
from devstack.server import LocalServer, server_environment
from pipeline.transport.kafka.network import create_client

_HERE = Path(__file__).parent
_MAX_HEAP = "512m"
_MAX_HEAP_OF_SEVERAL = "384m"
_CONNECT_SECONDS = 1.0
_ASK_MILLISECONDS = 5_000


def fetch_kafka(tools_dir: Path) -> Path:
    """The folder with Kafka's jars, fetched by Maven when it is not there yet; raises ToolUnavailableError."""
    versions = {
        "kafka.version": KAFKA_VERSION,
        "kafka.scala.version": KAFKA_SCALA_VERSION,
        "kafka.log4j.version": KAFKA_LOG4J_VERSION,
    }
    return fetch_jars(_HERE / "kafka-pom.xml", tools_dir, f"kafka-{KAFKA_VERSION}", versions)


class KafkaBroker(LocalServer):
    """A Kafka node that keeps its log in `data_dir` and talks on 127.0.0.1 only; alone, unless `membership` says more.

    Ports that are not given are picked once and kept over restarts of this object; another object may use the same
    data on other ports. Topics are made by the admin client: the broker makes none by itself.

    `advertised_port`: where clients are sent that have found the broker, for a proxy in front of it. `access`: what
    clients are asked for; nothing, if it is not given.
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
        """Where it listens to clients; `bootstrap_servers` is where it tells them to go."""
        return self._ports.client

    @property
    def bootstrap_servers(self) -> str:
        return f"{HOST}:{self.advertised_port}"

    @property
    def node_id(self) -> int:
        """As the cluster's metadata name it."""
        return 1 if self._membership is None else self._membership.node_id

    def start(self) -> None:
        super().start()
        if self.access.stored_mechanisms:
            with self.admin() as admin:
                self.access.store_passwords(admin)

    def admin(self) -> KafkaAdminClient:
        """A client with every right, past any proxy and without credentials. Raises kafka-python's exceptions."""
        return create_client(
            KafkaAdminClient,
            bootstrap_servers=f"{HOST}:{self._ports.internal}",
            bootstrap_timeout_ms=_ASK_MILLISECONDS,
            request_timeout_ms=_ASK_MILLISECONDS,
        )

    def _prepare(self) -> ServerProcess:
        java = [*self._java_command(), "-cp", f"{fetch_kafka(self._tools_dir)}/*"]
        self._data_dir.mkdir(parents=True, exist_ok=True)
        settings = self._write_settings()
        cluster_id = stored_cluster_id(self._log_dir) or self._format(java, settings)
        return ServerProcess(
            "Kafka",
            [*java, "kafka.Kafka", str(settings)],
            log_file=self._log_file,
            ready=lambda: self._serves(cluster_id),
            env=server_environment(),
            cwd=self._data_dir,  # where a crashed JVM leaves its report
            ports=(self._ports.client, self._ports.internal, self._ports.controller),
        )

    def _java_command(self) -> list[str]:
        logging_file = _HERE / "kafka-log4j2.properties"
        heap = _MAX_HEAP if self._membership is None else _MAX_HEAP_OF_SEVERAL
        return [*find_java(self._tools_dir).command(max_heap=heap), f"-Dlog4j2.configurationFile={logging_file}"]

    def _write_settings(self) -> Path:
        settings = server_properties(
            self._ports,
            self._log_dir,
            advertised_port=self.advertised_port,
            access=self.access,
            membership=self._membership,
        )
        path = self._data_dir / "server.properties"
        path.touch(mode=0o600)  # there may be passwords in it
        path.write_text(properties_text(settings), encoding="utf-8")
        return path

    def _format(self, java: list[str], settings: Path) -> str:
        """The id of the cluster that the storage has been formatted for."""
        if self._membership is None:
            cluster_id = new_cluster_id()
            format_storage(java, settings, cluster_id, "--standalone")
        else:
            cluster_id = self._membership.cluster_id
            format_storage(java, settings, cluster_id)
        return cluster_id

    @property
    def _log_dir(self) -> Path:
        return self._data_dir / "log"

    def _serves(self, cluster_id: str) -> bool:
        """Whether this cluster answers here with this broker registered and not fenced, so that it can serve."""
        try:
            # Quick and quiet while nobody listens.
            socket.create_connection((HOST, self._ports.internal), _CONNECT_SECONDS).close()
            with self.admin() as admin:
                cluster = admin.describe_cluster()
        except (OSError, KafkaError):
            return False
        serving = [broker["broker_id"] for broker in cluster["brokers"] if not broker["is_fenced"]]
        return bool(cluster["cluster_id"] == cluster_id and self.node_id in serving)
