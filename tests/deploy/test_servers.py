"""Start the two servers of docker-compose.yml with exactly its settings, but without Docker."""

from __future__ import annotations

import socket
import subprocess
import urllib.request
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from devstack.kafka.broker import fetch_kafka
from devstack.processes.process import ServerProcess, free_port
from devstack.processes.server import server_environment
from devstack.s3 import fetch_s3_server
from devstack.tools.java import find_java
from pipeline.errors import PipelineError
from pipeline.storage.s3.store import S3Options, S3Store
from pipeline.transport.kafka.transport import KafkaTransport
from pipeline.transport.protocol import Message, Topic
from tests.deploy.compose import ComposeFile, interpolate
from tests.deploy.conftest import REQUIRED
from tests.support.servers import require


def is_ok(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.mark.s3
def test_s3_server_accepts_its_command_and_its_account(compose: ComposeFile, tools_dir: Path, tmp_path: Path) -> None:
    tool = require(lambda: fetch_s3_server(tools_dir, "versitygw"))
    service, port = compose.services["s3"], free_port()
    chosen = REQUIRED | {"S3_HOST": "127.0.0.1", "S3_PORT": str(port)}
    volumes = dict(volume.split(":")[::-1] for volume in service["volumes"])
    for place in volumes:
        (tmp_path / place.strip("/")).mkdir()
    command = [interpolate(word, chosen).replace("=:", "=127.0.0.1:") for word in service["command"]]
    for place in volumes:  # folders are the last part of an argument or of an option
        command = [f"{word[: -len(place)]}{tmp_path}{place}" if word.endswith(place) else word for word in command]
    probed = interpolate(service["healthcheck"]["test"][-1], chosen)
    server = ServerProcess(
        "VersityGW",
        [str(tool.path), *command],
        log_file=tmp_path / "log",
        ready=lambda: is_ok(probed),
        env=server_environment(**compose.environment("s3", chosen)),
        cwd=tmp_path,
    )
    client = compose.environment("uploader", chosen)
    store = S3Store(
        S3Options(
            bucket=client["S3_BUCKET_NAME"],
            region=client["AWS_REGION"],
            endpoint_url=client["S3_ENDPOINT_URL"],
            access_key_id=client["AWS_ACCESS_KEY_ID"],
            secret_access_key=client["AWS_SECRET_ACCESS_KEY"],
        )
    )
    (tmp_path / "stem").write_bytes(b"a stem")
    with server:
        store.ensure_bucket()
        store.put("stem.wav", tmp_path / "stem", content_type="audio/wav")
        with urllib.request.urlopen(store.url("stem.wav"), timeout=10) as response:
            assert response.read() == b"a stem"
    assert (tmp_path / "objects" / client["S3_BUCKET_NAME"] / "stem.wav").read_bytes() == b"a stem"


@pytest.mark.kafka
@pytest.mark.slow
def test_kafka_image_starts_a_broker_from_its_environment(
    compose: ComposeFile, tools_dir: Path, tmp_path: Path
) -> None:
    """The program that converts the image's environment into the broker's settings is part of Kafka."""
    jars = require(lambda: fetch_kafka(tools_dir))
    java = [*require(lambda: find_java(tools_dir)).command(max_heap="512m"), "-cp", f"{jars}/*"]
    port = str(free_port())
    folders = {kind: tmp_path / kind for kind in ("default", "mounted", "final")}
    for folder in folders.values():
        folder.mkdir()
    setup = subprocess.run(
        [
            *(*java, "kafka.docker.KafkaDockerWrapper", "setup"),
            *(f"--{kind}-configs-dir={folder}" for kind, folder in folders.items()),
        ],
        env=server_environment(**on_loopback(compose.environment("kafka", {"KAFKA_PORT": port}), port, tmp_path)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert setup.returncode == 0, setup.stderr + setup.stdout
    transport = KafkaTransport(
        f"127.0.0.1:{port}",
        max_poll_interval_ms=60_000,
        session_timeout_ms=10_000,
        publish_timeout=10.0,
        partitions=1,
        replication_factor=1,
    )
    broker = ServerProcess(
        "Kafka",
        [*java, "kafka.Kafka", str(folders["final"] / "server.properties")],
        log_file=tmp_path / "log",
        ready=lambda: answers(port, transport),
        env=server_environment(),
        cwd=tmp_path,
    )
    with broker, closing(transport):
        transport.ensure_topics((Topic("jobs", 3600.0),))
        transport.publish(Message("jobs", "key", b"value"))
        with closing(transport.subscribe(["jobs"], "group")) as subscription:
            delivery = subscription.receive(60.0)
            assert delivery is not None
            assert delivery.message.value == b"value"
            subscription.settle(delivery)


def on_loopback(environment: Mapping[str, str], external: str, data: Path) -> dict[str, str]:
    """Replace the addresses and the folder of the container in the broker's settings by those of this machine."""
    internal, controller = str(free_port()), str(free_port())
    places = {
        "kafka:9092": f"127.0.0.1:{internal}",
        "kafka:9093": f"127.0.0.1:{controller}",
        "://:9092": f"://127.0.0.1:{internal}",
        "://:9093": f"://127.0.0.1:{controller}",
        "://:19092": f"://127.0.0.1:{external}",
        "://localhost": "://127.0.0.1",
        "/var/lib/kafka": str(data),
    }
    changed = dict(environment)
    for there, here in places.items():
        assert any(there in value for value in changed.values()), there
        changed = {name: value.replace(there, here) for name, value in changed.items()}
    return changed


def answers(port: str, transport: KafkaTransport) -> bool:
    try:
        socket.create_connection(
            ("127.0.0.1", int(port)), 1.0
        ).close()  # the client logs errors while the port is closed
        transport.check()
    except (OSError, PipelineError):
        return False
    return True
