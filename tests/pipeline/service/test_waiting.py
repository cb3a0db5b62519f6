"""The wait for the components: all at once, with reasons, throttled; and its ends."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import structlog

from config import load
from pipeline.backoff import Backoff
from pipeline.errors import ErrorCode, InfrastructureError, RefusedError
from pipeline.service.shutdown import StopSignal
from pipeline.service.waiting import ComponentWait, component_addresses
from tests.support.log_lines import lines_until

ROOT = Path(__file__).parents[3]
DEADLINE = 20.0
QUICK = Backoff(base=0.01, cap=0.02)
#: What a service needs in order to start, besides the components under test.
BASIC = {
    "BASIC_AUTH_USERNAME": "operator",
    "BASIC_AUTH_PASSWORD": "pa55word-of-the-process",
    **dict.fromkeys(("API_PORT", "PROCESSOR_HEALTH_PORT", "UPLOADER_HEALTH_PORT"), "0"),
}


class Component:
    """A component whose check fails with ``error`` while it is set."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.checked = threading.Semaphore(0)

    def check(self) -> None:
        self.checked.release()
        if self.error is not None:
            raise self.error


def fault(sentence: str) -> InfrastructureError:
    return InfrastructureError(sentence, code=ErrorCode.STORAGE_UNAVAILABLE)


def wait_for(**components: Component) -> ComponentWait:
    checks = {name: component.check for name, component in components.items()}
    return ComponentWait(checks, QUICK, StopSignal(60.0), {name: f"address of {name}" for name in components})


def checked(component: Component, count: int) -> None:
    for _ in range(count):
        assert component.checked.acquire(timeout=DEADLINE)


@pytest.fixture
def log() -> Iterator[list[structlog.typing.EventDict]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


def waited_for(lines: list[structlog.typing.EventDict]) -> list[tuple[str, str, str]]:
    return [
        (line["component"], line["address"], line["error"])
        for line in list(lines)
        if line["event"] == "waiting_for_component"
    ]


def test_nothing_is_logged_when_everything_is_ready(log: list[structlog.typing.EventDict]) -> None:
    with wait_for(broker=Component(), storage=Component()) as components:
        assert components.wait()
    assert log == []


def test_each_missing_component_is_logged_once_for_each_reason(log: list[structlog.typing.EventDict]) -> None:
    broker, storage = Component(fault("refused")), Component(fault("no such bucket"))
    with wait_for(broker=broker, storage=storage) as components:
        checked(broker, 5)
        checked(storage, 5)
        broker.error = fault("unknown name")
        checked(broker, 5)
        broker.error = storage.error = None
        assert components.wait()

    assert sorted(waited_for(log)) == [
        ("broker", "address of broker", "refused"),
        ("broker", "address of broker", "unknown name"),
        ("storage", "address of storage", "no such bucket"),
    ]
    assert {line["component"] for line in log if line["event"] == "component_ready"} == {"broker", "storage"}


def test_component_that_does_not_answer_is_named(log: list[structlog.typing.EventDict]) -> None:
    reported = threading.Event()

    def check() -> None:
        while not waited_for(log):  # A broker that answers once its silence was reported.
            reported.wait(0.01)

    with ComponentWait({"broker": check}, QUICK, StopSignal(60.0), {"broker": "kafka:9092"}) as components:
        assert components.wait()
    assert waited_for(log) == [("broker", "kafka:9092", "no answer yet")]


@pytest.mark.parametrize("error", [RefusedError("rejected", advice="check the user"), RuntimeError("a defect")])
def test_error_that_no_wait_resolves_ends_it_and_the_service(error: Exception) -> None:
    stop = StopSignal(60.0)
    broker = Component(error)
    with ComponentWait({"broker": broker.check, "storage": Component(fault("down")).check}, QUICK, stop) as components:
        with pytest.raises(type(error)):
            components.wait()
        with pytest.raises(type(error)):
            components.raise_if_failed()
    assert stop.wait(DEADLINE)


def test_shutdown_ends_the_wait() -> None:
    stop = StopSignal(60.0)
    storage = Component(fault("down"))
    with ComponentWait({"storage": storage.check}, QUICK, stop) as components:
        checked(storage, 1)
        stop.request("a test")
        assert not components.wait()
        components.raise_if_failed()


def test_addresses_contain_no_credentials() -> None:
    variables = {"S3_BUCKET_NAME": "stems", "S3_ENDPOINT_URL": "http://key:hunter2@s3.test:9000"}
    addresses = component_addresses(load(None, {**variables, "KAFKA_BOOTSTRAP_SERVERS": "kafka:9092"}))
    assert addresses["broker"] == "kafka:9092"
    assert addresses["storage"] == "http://s3.test:9000, bucket stems"
    assert addresses["handoff"].endswith("handoff")


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port without a listener, which no other program is given."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


class _RefusingS3(BaseHTTPRequestHandler):
    """Answers every request as S3 does if the secret key is wrong."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        body = b"<Error><Code>SignatureDoesNotMatch</Code><Message>no</Message></Error>"
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def refusing_s3() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _RefusingS3) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def start(service: str, folder: Path, **variables: str) -> subprocess.Popen[str]:
    environment = {**BASIC, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", service]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("service", ["api", "uploader"])
def test_wrong_keys_of_the_store_are_named(tmp_path: Path, refusing_s3: str, service: str) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "hunter2"}
    with start(service, tmp_path, S3_ENDPOINT_URL=refusing_s3, S3_BUCKET_NAME="stems", **keys) as running:
        (*_, line) = lines_until(running, "waiting_for_component")
        running.kill()
    assert (line["component"], line["address"]) == ("storage", f"{refusing_s3}, bucket stems")
    assert line["error"].startswith("the S3 server refused the signature: check AWS_ACCESS_KEY_ID")
    assert "hunter2" not in json.dumps(line)


@pytest.mark.parametrize("service", ["api", "uploader", "processor"])
def test_every_missing_component_is_named_in_the_shadow_of_the_others(
    tmp_path: Path, closed_port: int, service: str
) -> None:
    """The broker is down, the host of the store is unknown, and the processor's model is not loaded yet."""
    variables = {
        "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{closed_port}",
        "S3_ENDPOINT_URL": "http://no-such-host.invalid:9000",
        "S3_BUCKET_NAME": "stems",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "HANDOFF": "s3",
    }
    wanted = {"broker", "handoff" if service == "processor" else "storage"}
    with start(service, tmp_path, **variables) as running:
        found: dict[str, dict[str, str]] = {}
        while not wanted <= set(found):
            (*_, line) = lines_until(running, "waiting_for_component")
            found[line["component"]] = line
        running.kill()
    store = found[(wanted - {"broker"}).pop()]
    assert found["broker"]["address"] == f"127.0.0.1:{closed_port}"
    assert store["address"] == "http://no-such-host.invalid:9000, bucket stems"
    assert "(the host name cannot be resolved (DNS)): check S3_ENDPOINT_URL" in store["error"]
    assert "hunter2" not in json.dumps(found)
