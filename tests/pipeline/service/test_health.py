"""The health endpoints: probes get an answer in every state of the components."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.service import health
from pipeline.service.health import MAX_WAITING, Check, HealthServer

DEADLINE = 20.0


def ready() -> None:
    pass


def unavailable() -> None:
    raise InfrastructureError("the broker cannot be reached", code=ErrorCode.BROKER_UNAVAILABLE)


def broken() -> None:
    raise ZeroDivisionError("a defect, with /a/path in it")


def server(checks: Mapping[str, Check] | None = None, host: str = "127.0.0.1") -> HealthServer:
    return HealthServer(host, 0, "HEALTH_PORT", checks or {})


def ask(at: HealthServer, path: str, host: str = "127.0.0.1") -> tuple[int, Any]:
    connection = http.client.HTTPConnection(host, at.port, timeout=DEADLINE)
    connection.request("GET", path)
    response = connection.getresponse()
    assert response.getheader("Content-Type") == "application/json"
    body = json.loads(response.read())
    connection.close()
    return response.status, body


def test_process_is_healthy_with_unavailable_components() -> None:
    with server({"broker": unavailable}) as at:
        status, body = ask(at, "/health")
    assert status == 200
    assert body["status"] == "healthy"
    assert abs(body["timestamp"] - time.time()) < 60


def test_ready_when_all_components_are() -> None:
    with server({"broker": ready, "model": ready}) as at:
        assert ask(at, "/ready") == (
            200,
            {"status": "ready", "components": {"broker": {"status": "ready"}, "model": {"status": "ready"}}},
        )


@pytest.mark.parametrize(
    ("check", "error"), [(unavailable, "the broker cannot be reached"), (broken, "the check itself has failed")]
)
def test_unavailable_component_gives_its_error(check: Check, error: str) -> None:
    with server({"broker": check, "model": ready}) as at:
        assert ask(at, "/ready") == (
            503,
            {
                "status": "unavailable",
                "components": {"broker": {"status": "unavailable", "error": error}, "model": {"status": "ready"}},
            },
        )


def test_readiness_follows_the_components_after_a_while() -> None:
    state = [unavailable]
    with server({"broker": lambda: state[0]()}) as at:
        assert ask(at, "/ready")[0] == 503
        state[0] = ready
        deadline = time.monotonic() + DEADLINE
        while ask(at, "/ready")[0] != 200:
            assert time.monotonic() < deadline


def test_many_probes_run_each_check_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "READY_FOR", 3600.0)  # longer than any machine needs for the probes
    checks: list[None] = []
    with server({"storage": lambda: checks.append(None)}) as at, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(at, "/ready")[0], range(40)))
    assert answers == [200] * 40
    assert len(checks) == 1


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
def test_head_is_answered_like_get(path: str) -> None:
    with server() as at:
        connection = http.client.HTTPConnection("127.0.0.1", at.port, timeout=DEADLINE)
        connection.request("HEAD", path)
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"")
        assert int(response.getheader("Content-Length", "0")) > 0
        connection.close()


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost:"])
def test_silent_connections_do_not_keep_probes_out(sent: bytes) -> None:
    with server() as at, ExitStack() as stack:
        for _ in range(3 * MAX_WAITING):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", at.port), timeout=DEADLINE))
            connection.sendall(sent)
        assert ask(at, "/health")[0] == 200
        assert sum(thread.name.endswith("(process_request_thread)") for thread in threading.enumerate()) < 96


def test_details_are_included_in_any_state() -> None:
    children = [{"device": "0", "state": "loading"}]
    with HealthServer("127.0.0.1", 0, "HEALTH_PORT", {"model": unavailable}, {"children": lambda: children}) as at:
        answers = ask(at, "/health"), ask(at, "/ready")
    assert [(status, body["children"]) for status, body in answers] == [(200, children), (503, children)]


def test_query_is_ignored() -> None:
    with server() as at:
        assert ask(at, "/ready?probe=1")[0] == 200


@pytest.mark.parametrize("path", ["/", "/healthy", "/ready/", "/ready/x"])
def test_other_paths_are_not_found(path: str) -> None:
    with server() as at:
        assert ask(at, path) == (404, {"error": "Endpoint not found", "details": None})


def test_slow_check_delays_no_other_probe() -> None:
    go = threading.Event()
    with server({"broker": lambda: None if go.wait(DEADLINE) else unavailable()}) as at:
        answers: list[int] = []
        waiting = threading.Thread(target=lambda: answers.append(ask(at, "/ready")[0]))
        waiting.start()
        assert ask(at, "/health")[0] == 200
        assert answers == []
        go.set()
        waiting.join(DEADLINE)
    assert answers == [200]


def test_probe_that_disconnects_is_not_logged_as_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    entered, go = threading.Event(), threading.Event()

    def check() -> None:
        entered.set()
        go.wait(DEADLINE)

    with server({"broker": check}) as at:
        with socket.create_connection(("127.0.0.1", at.port), timeout=DEADLINE) as probe:
            probe.sendall(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n")
            entered.wait(DEADLINE)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        go.set()
        assert ask(at, "/health")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_invalid_request_is_rejected() -> None:
    with server() as at, socket.create_connection(("127.0.0.1", at.port), timeout=DEADLINE) as probe:
        probe.sendall(b"invalid\r\n\r\n")
        assert b"400" in probe.recv(1000)


def test_server_listens_on_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with server(host="::1") as at:
        assert ask(at, "/health", host="::1")[0] == 200


def test_no_name_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard library's server resolves its own name, which blocks where no name server answers."""

    def forbidden(*_: object) -> str:
        raise AssertionError("a name was looked up")

    monkeypatch.setattr(socket, "getfqdn", forbidden)
    with server() as at:
        assert ask(at, "/health")[0] == 200


def test_error_for_an_occupied_port_names_the_setting() -> None:
    with server() as at:
        second = HealthServer("127.0.0.1", at.port, "HEALTH_PORT", {})
        with pytest.raises(InfrastructureError) as caught:
            second.__enter__()
    assert caught.value.message == (
        f"HEALTH_PORT={at.port} cannot be listened on (Address already in use): set another port, or 0 for any free one"
    )


def test_port_is_free_after_the_end() -> None:
    with server() as at:
        port = at.port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
    with HealthServer("127.0.0.1", port, "HEALTH_PORT", {}) as again:
        assert ask(again, "/health")[0] == 200
