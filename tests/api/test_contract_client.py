"""A client written from the published contract: raw bytes over a socket, without any of the project's code."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

import pytest

from tests.api.conftest import Service
from tests.api.http_client import DEADLINE

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
AUDIO, HOOK = b'"audio": "https://cdn.example.com/a.mp3"', b'"hook_url": "https://app.example.com/h"'
JSON = b"Content-Type: application/json\r\n"
AUTH = b"Authorization: Basic b3BlcmF0b3I6Y29ycmVjdCBob3JzZTogYmF0dGVyeQ==\r\n"


def ask(port: int, first_line: bytes, headers: bytes = b"", body: bytes = b"") -> tuple[int, dict[str, str], Any]:
    """Status, headers (names in lower case) and JSON body of the answer to one request."""
    length = b"Content-Length: %d\r\n" % len(body)
    request = first_line + b" HTTP/1.1\r\nHost: api\r\nConnection: close\r\n" + headers + length + b"\r\n" + body
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as connection:
        connection.sendall(request)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, content = answer.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    found = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status_line.split()[1]), found, json.loads(content)


@pytest.fixture
def port(service: Service) -> int:
    return service.client.port


def test_generate(port: int) -> None:
    status, headers, body = ask(port, b"POST /generate", AUTH + JSON, b"{%b, %b}" % (AUDIO, HOOK))

    assert status == 202
    assert headers["content-type"] == "application/json"
    assert UUID4.fullmatch(body.pop("task_uuid"))
    assert body == {"message": "Task has been queued for processing", "status": "queued"}


def test_health_and_readiness(port: int) -> None:
    status, _, health = ask(port, b"GET /health")
    assert (status, health["status"]) == (200, "healthy")
    assert isinstance(health["timestamp"], int)

    status, _, readiness = ask(port, b"GET /ready")
    assert status == 200
    assert set(readiness["components"]) == {"broker", "storage"}


@pytest.mark.parametrize(
    ("headers", "body", "status", "sentence"),
    [
        (AUTH, b"{}", 400, "Content-Type must be application/json"),
        (AUTH + JSON, b"", 400, "Request body is required"),
        (AUTH + JSON, b"{%b}" % HOOK, 400, "audio field is required"),
        (AUTH + JSON, b"{%b}" % AUDIO, 400, "hook_url field is required"),
        (AUTH + JSON, b'{"audio": "a.mp3", %b}' % HOOK, 400, "audio must be a valid HTTP(S) URL"),
        (AUTH + JSON, b'{"hook_url": "h", %b}' % AUDIO, 400, "hook_url must be a valid HTTP(S) URL"),
        (JSON, b"{%b, %b}" % (AUDIO, HOOK), 401, None),
        (AUTH + JSON, b'{"audio": "http://169.254.169.254/", %b}' % HOOK, 403, None),
        (AUTH + JSON, b'{%b, "x": "%b"}' % (AUDIO, b"x" * 60_000), 413, None),
        (AUTH + JSON, b'{"output_format": "midi", %b, %b}' % (AUDIO, HOOK), 422, None),
        (AUTH + JSON, b'{"priority": 6, %b, %b}' % (AUDIO, HOOK), 422, None),
        (AUTH + JSON + b"X-Client-Id: a\r\nX-Client-Id: b\r\n", b"{%b, %b}" % (AUDIO, HOOK), 422, None),
        (AUTH + JSON + b"X-Client-Id: k\xe4se\r\n", b"{%b, %b}" % (AUDIO, HOOK), 422, None),
    ],
)
def test_errors(service: Service, headers: bytes, body: bytes, status: int, sentence: str | None) -> None:
    found, answered, error = ask(service.client.port, b"POST /generate", headers, body)

    assert found == status
    assert set(error) == {"error", "details"}
    assert sentence in (None, error["error"])
    assert isinstance(error["error"], str)
    assert error["error"]
    assert answered.get("www-authenticate", "").startswith("Basic") == (status == 401)
    assert service.queued() == []


def test_an_unknown_path_and_method(port: int) -> None:
    status, _, body = ask(port, b"GET /nothing")

    assert (status, body) == (404, {"error": "Endpoint not found"})
