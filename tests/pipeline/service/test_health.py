"""Probes are answered, whatever state the components are in."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest

from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.service.health import Check, HealthServer

DEADLINE = 20.0


def fine() -> None:
    pass


def away() -> None:
    raise InfrastructureError("the broker cannot be reached", code=ErrorCode.BROKER_UNAVAILABLE)


def broken() -> None:
    raise ZeroDivisionError("a defect, with /a/path in it")


def server(checks: Mapping[str, Check] | None = None, host: str = "127.0.0.1") -> HealthServer:
    return HealthServer(host, 0, "HEALTH_PORT", checks or {})


def ask(at: HealthServer, path: str, host: str = "127.0.0.1") -> tuple[int, Any]:
    connection = http.client.HTTPConnection(host, at.port, timeout=DEADLINE)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.getheader("Content-Type") == "application/json"
    body = json.loads(answer.read())
    connection.close()
    return answer.status, body


def test_a_living_process_is_healthy_whatever_is_wrong() -> None:
    with server({"broker": away}) as at:
        status, body = ask(at, "/health")
    assert status == 200
    assert body["status"] == "healthy"
    assert abs(body["timestamp"] - time.time()) < 60


def test_it_is_ready_when_every_component_is() -> None:
    with server({"broker": fine, "model": fine}) as at:
        assert ask(at, "/ready") == (
            200,
            {"status": "ready", "components": {"broker": {"status": "ready"}, "model": {"status": "ready"}}},
        )


@pytest.mark.parametrize(
    ("check", "error"), [(away, "the broker cannot be reached"), (broken, "the check itself has failed")]
)
def test_a_component_that_is_not_says_why(check: Check, error: str) -> None:
    with server({"broker": check, "model": fine}) as at:
        assert ask(at, "/ready") == (
            503,
            {
                "status": "unavailable",
                "components": {"broker": {"status": "unavailable", "error": error}, "model": {"status": "ready"}},
            },
        )


def test_readiness_is_asked_each_time() -> None:
    state = [away]
    with server({"broker": lambda: state[0]()}) as at:
        assert ask(at, "/ready")[0] == 503
        state[0] = fine
        assert ask(at, "/ready")[0] == 200


def test_details_are_shown_whether_it_is_ready_or_not() -> None:
    children = [{"device": "0", "state": "loading"}]
    with HealthServer("127.0.0.1", 0, "HEALTH_PORT", {"model": away}, {"children": lambda: children}) as at:
        answers = ask(at, "/health"), ask(at, "/ready")
    assert [(status, body["children"]) for status, body in answers] == [(200, children), (503, children)]


def test_a_query_is_no_other_path() -> None:
    with server() as at:
        assert ask(at, "/ready?probe=1")[0] == 200


@pytest.mark.parametrize("path", ["/", "/healthy", "/ready/", "/ready/x"])
def test_other_paths_are_not_found(path: str) -> None:
    with server() as at:
        assert ask(at, path) == (404, {"error": "Endpoint not found", "details": None})


def test_a_slow_check_holds_up_no_other_probe() -> None:
    go = threading.Event()
    with server({"broker": lambda: None if go.wait(DEADLINE) else away()}) as at:
        answers: list[int] = []
        waiting = threading.Thread(target=lambda: answers.append(ask(at, "/ready")[0]))
        waiting.start()
        assert ask(at, "/health")[0] == 200
        assert answers == []
        go.set()
        waiting.join(DEADLINE)
    assert answers == [200]


def test_a_probe_that_leaves_early_is_not_worth_a_word(capfd: pytest.CaptureFixture[str]) -> None:
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


def test_nonsense_is_refused() -> None:
    with server() as at, socket.create_connection(("127.0.0.1", at.port), timeout=DEADLINE) as probe:
        probe.sendall(b"nonsense\r\n\r\n")
        assert b"400" in probe.recv(1000)


def test_it_listens_on_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with server(host="::1") as at:
        assert ask(at, "/health", host="::1")[0] == 200


def test_it_asks_no_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard library's server looks up its own name, which takes long where there is no answer."""

    def forbidden(*_: object) -> str:
        raise AssertionError("a name was looked up")

    monkeypatch.setattr(socket, "getfqdn", forbidden)
    with server() as at:
        assert ask(at, "/health")[0] == 200


def test_a_port_that_is_taken_is_told_with_its_setting() -> None:
    with server() as at:
        second = HealthServer("127.0.0.1", at.port, "HEALTH_PORT", {})
        with pytest.raises(InfrastructureError) as caught:
            second.__enter__()
    assert caught.value.message == (
        f"HEALTH_PORT={at.port} cannot be listened on (Address already in use): set another port, or 0 for any free one"
    )


def test_after_the_end_nobody_listens_and_the_port_is_free() -> None:
    with server() as at:
        port = at.port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
    with HealthServer("127.0.0.1", port, "HEALTH_PORT", {}) as again:
        assert ask(again, "/health")[0] == 200
