"""``python -m api`` as a process: its start, its log and its exit status."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from api.__main__ import main
from config import SECTIONS
from pipeline.service.shutdown import ExitCode
from tests.api.http_client import DEADLINE, Client
from tests.support.log_lines import lines_until

ROOT = Path(__file__).parents[2]
CROWD = 50
CREDENTIALS = ("operator", "pa55word-of-the-process")
KNOWN = {str(field.alias) for section in SECTIONS for field in section.model_fields.values()}


@contextmanager
def process(folder: Path, *code: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Start ``python -m api``, or other code, in a folder without ``.env``, with these settings only."""
    inherited = {name: value for name, value in os.environ.items() if name not in KNOWN}
    environment = {**inherited, "PYTHONPATH": str(ROOT), "DATA_DIR": str(folder / "data"), "API_PORT": "0", **variables}
    with subprocess.Popen(
        [sys.executable, *(code or ("-m", "api"))], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def run(folder: Path, *code: str, **variables: str) -> tuple[int, str]:
    """Return the exit status and the standard error of a process that exits by itself."""
    with process(folder, *code, **variables) as running:
        _, stderr = running.communicate(timeout=DEADLINE)
    return running.returncode, stderr


def credentials() -> dict[str, str]:
    return dict(zip(("BASIC_AUTH_USERNAME", "BASIC_AUTH_PASSWORD"), CREDENTIALS, strict=True))


def test_a_job_from_start_to_stop_leaves_no_secret_in_the_log(tmp_path: Path) -> None:
    with process(tmp_path, **credentials()) as running:
        lines = lines_until(running, "listening")
        client = Client(lines[-1]["port"], CREDENTIALS)
        assert client.get("/ready").status == 200
        wanted = {
            # An IP address, so that no name is resolved.
            "audio": "https://93.184.215.14/song.mp3?token=query-secret",
            "hook_url": "https://93.184.215.14/hook/path-secret?key=hook-secret",
        }
        accepted = client.post(wanted)
        refused = client.post({**wanted, "audio": "http://127.0.0.1/song.mp3?token=query-secret"})
        unknown = client.post(wanted, {"Authorization": "Basic d3Jvbmc6d3Jvbmctc2VjcmV0"})  # wrong:wrong-secret
        running.send_signal(signal.SIGTERM)
        lines += lines_until(running, "stopped")
        status = running.wait(DEADLINE)

    assert (accepted.status, refused.status, unknown.status, status) == (202, 403, 401, ExitCode.OK)
    (acceptance,) = (line for line in lines if line["event"] == "job_accepted")
    assert acceptance["task_uuid"] == accepted.json["task_uuid"]
    assert acceptance["audio"] == "https://93.184.215.14/song.mp3"
    assert (acceptance["client"], acceptance["topic"]) == ("93.184.215.14", "uvr_tasks")
    refusals = [line for line in lines if line["event"] == "request_refused"]
    assert [line["status"] for line in refusals] == [403, 401]
    assert (refusals[0]["field"], refusals[0]["host"], refusals[0]["peer"]) == ("audio", "127.0.0.1", "127.0.0.1")
    assert refusals[0]["rule"] == "an address of the host is private, reserved or in URL_DENY_NETWORKS"
    text = json.dumps(lines)
    for secret in ("secret", CREDENTIALS[1], client.authorization, "d3Jvbmc6"):
        assert secret not in text


def test_files_of_the_service_are_for_its_user_alone(tmp_path: Path) -> None:
    """The queue contains signed source URLs."""
    with process(tmp_path, **credentials()) as running:
        lines_until(running, "listening")
        created = list((tmp_path / "data").rglob("*"))
        assert "broker.sqlite" in {path.name for path in created}
        assert [path for path in created if path.stat().st_mode & 0o077] == []


def test_a_request_in_progress_is_answered_before_the_exit(tmp_path: Path) -> None:
    with process(tmp_path, **credentials()) as running:
        (*_, listening) = lines_until(running, "listening")
        body = b'{"audio": "https://93.184.215.14/a.mp3", "hook_url": "https://93.184.215.14/b"}'
        head = (
            f"POST /generate HTTP/1.1\r\nHost: x\r\nAuthorization: {Client(0, CREDENTIALS).authorization}\r\n"
            f"Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", listening["port"]), timeout=DEADLINE) as connection:
            connection.sendall(head.encode())
            assert connection.recv(1000).startswith(b"HTTP/1.1 100")  # The request is in progress.
            running.send_signal(signal.SIGTERM)
            lines_until(running, "stopping")
            connection.sendall(body)
            assert connection.recv(1000).startswith(b"HTTP/1.1 202")
        assert running.wait(DEADLINE) == ExitCode.OK


@pytest.mark.slow
def test_without_a_broker_the_api_runs_and_answers_503(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        nobody = f"127.0.0.1:{reserved.getsockname()[1]}"
    with process(tmp_path, **credentials(), KAFKA_BOOTSTRAP_SERVERS=nobody, ACCEPT_TIMEOUT="0.3") as running:
        (*_, listening) = lines_until(running, "listening")
        client = Client(listening["port"], CREDENTIALS)

        job = {"audio": "https://93.184.215.14/a.mp3", "hook_url": "https://93.184.215.14/b"}
        with ThreadPoolExecutor(CROWD) as pool:
            answers = list(pool.map(client.post, [job] * CROWD))
        readiness = client.get("/ready")
        alive = client.get("/health")
        running.terminate()
        status = running.wait(DEADLINE)

    assert [(answer.status, answer.json["details"]["code"]) for answer in answers] == [
        (503, "broker_unavailable")
    ] * CROWD
    assert all("retry-after" in answer.headers for answer in answers)
    assert readiness.status == 503
    assert readiness.json["components"]["broker"]["status"] == "unavailable"
    assert readiness.json["components"]["storage"] == {"status": "ready"}
    assert (alive.status, status) == (200, ExitCode.OK)


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({}, "BASIC_AUTH_USERNAME and BASIC_AUTH_PASSWORD must be set: the API does not start without credentials."),
        ({"BASIC_AUTH_USERNAME": "operator"}, "BASIC_AUTH_PASSWORD must be set"),
        ({**credentials(), "API_PORT": "eighty"}, "API_PORT: "),
        ({**credentials(), "BASIC_AUTH_PASSWORD": "short"}, "BASIC_AUTH_PASSWORD is too short"),
        (
            {**credentials(), "API_HOST": "0.0.0.0", "ALLOW_PRIVATE_NETWORKS": "true"},
            "ALLOW_PRIVATE_NETWORKS must not be set",
        ),
    ],
)
def test_invalid_settings_are_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variables: dict[str, str],
    sentence: str,
) -> None:
    for name in KNOWN:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    assert main() is ExitCode.CONFIG
    stderr = capsys.readouterr().err
    assert stderr.startswith(sentence)
    assert len(stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({}, "BASIC_AUTH_USERNAME and BASIC_AUTH_PASSWORD must be set"),
        (
            {
                **credentials(),
                "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
                "KAFKA_SECURITY_PROTOCOL": "SSL",
                "KAFKA_SSL_CA_FILE": "missing.pem",
            },
            "KAFKA_SSL_CA_FILE=missing.pem cannot be read",
        ),
    ],
)
def test_an_invalid_setting_has_its_exit_status(tmp_path: Path, variables: dict[str, str], sentence: str) -> None:
    status, stderr = run(tmp_path, **variables)

    assert status == 78
    assert stderr.startswith(sentence)
    assert len(stderr.splitlines()) == 1


def test_a_port_in_use_is_reported(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        status, stderr = run(tmp_path, **credentials(), API_PORT=str(other.getsockname()[1]))

    assert status == ExitCode.UNAVAILABLE
    # A thread that creates the topics may still report that it was interrupted.
    (failure,) = [event for event in map(json.loads, stderr.splitlines()) if event["event"] == "startup_failed"]
    assert "API_PORT" in failure["error"]
    assert "Address already in use" in failure["error"]


#: The API on a broker whose ``ensure_topics`` fails once the API listens.
_FAILING = """
import sys, threading, uvicorn
from api import __main__ as api
from pipeline.errors import RefusedError
from pipeline.transport.embedded.transport import EmbeddedTransport

listening = threading.Event()

class Failing(EmbeddedTransport):
    def ensure_topics(self, topics):
        assert listening.wait(20)
        raise {failure}

class ReportingServer(api.ApiServer):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        listening.set()

api.ApiServer = ReportingServer
api.open_transport = lambda settings, **_: Failing(settings.state.broker_file)
sys.exit(api.main())
"""


def test_refused_broker_credentials_end_the_process(tmp_path: Path) -> None:
    sentence = "the broker kafka:9092 refuses the user 'svc': check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
    failure = f"RefusedError('refused', advice={sentence!r})"

    status, stderr = run(tmp_path, "-c", _FAILING.format(failure=failure), **credentials())

    assert status == 77
    events = [json.loads(line) for line in stderr.splitlines()]
    assert [event["event"] for event in events] == ["listening", "stopping", "startup_failed"]
    assert (events[-1]["error"], events[-1]["code"]) == (sentence, "broker_refused")


def test_an_unexpected_error_while_topics_are_created_ends_the_process(tmp_path: Path) -> None:
    status, stderr = run(tmp_path, "-c", _FAILING.format(failure="RuntimeError('a defect')"), **credentials())

    assert status == ExitCode.INTERNAL
    event = json.loads(stderr.splitlines()[-1])
    assert event["event"] == "unexpected_error"
    assert "RuntimeError: a defect" in event["exception"]
