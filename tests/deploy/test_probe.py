"""Test the health check of the images as a process, as Docker runs it."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Mapping

from devstack.processes.process import free_port
from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.service.health import HealthServer
from tests.deploy.conftest import ROOT


def probe(path: str, port: int, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.probe", path, "SOME_PORT"],
        cwd=ROOT,
        env={"SOME_PORT": str(port), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=30,
    )


def fail() -> None:
    raise InfrastructureError("the broker does not answer", code=ErrorCode.BROKER_UNAVAILABLE)


def test_ready_service() -> None:
    with HealthServer("127.0.0.1", 0, "SOME_PORT", {}) as server:
        assert probe("/ready", server.port).returncode == 0


def test_service_that_is_not_ready_is_alive_and_names_the_cause() -> None:
    with HealthServer("127.0.0.1", 0, "SOME_PORT", {"broker": fail}) as server:
        assert probe("/health", server.port).returncode == 0
        ready = probe("/ready", server.port)
    assert ready.returncode == 1
    assert "the broker does not answer" in ready.stdout


def test_no_service_listens() -> None:
    result = probe("/health", free_port())
    assert result.returncode == 1
    assert "ConnectionRefusedError" in result.stdout
    assert not result.stderr


def test_server_without_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"220 mail\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        result = probe("/health", listener.getsockname()[1])
        thread.join(10)
    assert result.returncode == 1
    assert "BadStatusLine" in result.stdout


def test_proxies_are_bypassed() -> None:
    proxy = {"http_proxy": f"http://127.0.0.1:{free_port()}", "HTTP_PROXY": f"http://127.0.0.1:{free_port()}"}
    with HealthServer("127.0.0.1", 0, "SOME_PORT", {}) as server:
        assert probe("/health", server.port, proxy).returncode == 0
