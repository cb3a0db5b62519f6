"""A real Apache Kafka: one combined broker and controller (KRaft) on loopback."""

import base64
import secrets
import socket
import subprocess
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from devstack.errors import ServerStartError
from devstack.java import find_java, properties_text
from devstack.maven import fetch_jars
from devstack.pins import KAFKA_LOG4J_VERSION, KAFKA_SCALA_VERSION, KAFKA_VERSION
from devstack.process import ServerProcess, free_port
from devstack.server import LocalServer, server_environment

_HERE = Path(__file__).parent
_HOST = "127.0.0.1"
_NODE_ID = 1
_MAX_HEAP = "512m"
_FORMAT_SECONDS = 120.0
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
    """A single Kafka node that keeps its log in `data_dir` and talks on 127.0.0.1 only, in plain text.

    Ports that are not given are picked once and kept over restarts of this object; another object may use the same
    data on other ports. Topics are made by the admin client: the broker makes none by itself.
    """

    def __init__(
        self,
        tools_dir: Path,
        data_dir: Path,
        port: int | None = None,
        controller_port: int | None = None,
        *,
        log_file: Path | None = None,
    ) -> None:
        super().__init__()
        self.port = port or free_port()
        self._controller_port = controller_port or free_port()
        self._tools_dir = tools_dir
        self._data_dir = data_dir.absolute()
        self._log_file = log_file or self._data_dir / "kafka.log"

    @property
    def bootstrap_servers(self) -> str:
        return f"{_HOST}:{self.port}"

    def _prepare(self) -> ServerProcess:
        java = [*self._java_command(), "-cp", f"{fetch_kafka(self._tools_dir)}/*"]
        self._data_dir.mkdir(parents=True, exist_ok=True)
        settings = self._data_dir / "server.properties"
        settings.write_text(properties_text(self._settings()), encoding="utf-8")
        cluster_id = _stored_cluster_id(self._log_dir)
        if cluster_id is None:
            cluster_id = _new_cluster_id()
            _format(java, settings, cluster_id)
        return ServerProcess(
            "Kafka",
            [*java, "kafka.Kafka", str(settings)],
            log_file=self._log_file,
            ready=lambda: _answers(self.port, cluster_id),
            env=server_environment(),
            cwd=self._data_dir,  # where a crashed JVM leaves its report
        )

    def _java_command(self) -> list[str]:
        logging_file = _HERE / "kafka-log4j2.properties"
        return [*find_java(self._tools_dir).command(max_heap=_MAX_HEAP), f"-Dlog4j2.configurationFile={logging_file}"]

    @property
    def _log_dir(self) -> Path:
        return self._data_dir / "log"

    def _settings(self) -> dict[str, object]:
        return {
            "process.roles": "broker,controller",
            "node.id": _NODE_ID,
            "controller.quorum.bootstrap.servers": f"{_HOST}:{self._controller_port}",
            "listeners": f"PLAINTEXT://{self.bootstrap_servers},CONTROLLER://{_HOST}:{self._controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap_servers}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": self._log_dir,
            "auto.create.topics.enable": "false",
            # One node: internal topics have one replica, and few partitions, which are all made on first use.
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 2,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 2,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "share.coordinator.state.topic.num.partitions": 2,
            # Groups form at once, and tests may let members time out quickly.
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            # After a crash the broker is let in again only when its old session is over: seconds, not the usual nine.
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
            "log.cleaner.dedupe.buffer.size": 4 * 1024 * 1024,
        }


def _new_cluster_id() -> str:
    """A random id in Kafka's form, 16 bytes in URL-safe base64, which may not look like an option (KIP-78)."""
    while True:
        cluster_id = base64.urlsafe_b64encode(secrets.token_bytes(16)).rstrip(b"=").decode()
        if not cluster_id.startswith("-"):
            return cluster_id


def _stored_cluster_id(log_dir: Path) -> str | None:
    """The id that formatting left in `log_dir`, None where it was never formatted (to its end)."""
    try:
        lines = (log_dir / "meta.properties").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    return next((line.removeprefix("cluster.id=") for line in lines if line.startswith("cluster.id=")), None)


def _format(java: list[str], settings: Path, cluster_id: str) -> None:
    command = [*java, "kafka.tools.StorageTool", "format", "--standalone", "-t", cluster_id, "-c", str(settings)]
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=_FORMAT_SECONDS, env=server_environment(), check=False
        )
    except subprocess.TimeoutExpired:
        raise ServerStartError(f"Kafka's storage was not formatted within {_FORMAT_SECONDS:.0f} s") from None
    if run.returncode != 0:
        raise ServerStartError(f"Kafka's storage could not be formatted: {(run.stderr or run.stdout).strip()}")


def _answers(port: int, cluster_id: str) -> bool:
    """Whether this cluster answers on `port` with its broker registered and not fenced, so that it can serve."""
    try:
        socket.create_connection((_HOST, port), _CONNECT_SECONDS).close()  # quick and quiet while nobody listens
        with KafkaAdminClient(
            bootstrap_servers=f"{_HOST}:{port}",
            bootstrap_timeout_ms=_ASK_MILLISECONDS,
            request_timeout_ms=_ASK_MILLISECONDS,
        ) as admin:
            cluster = admin.describe_cluster()
    except (OSError, KafkaError):
        return False
    serving = [broker["broker_id"] for broker in cluster["brokers"] if not broker["is_fenced"]]
    return bool(cluster["cluster_id"] == cluster_id and _NODE_ID in serving)
