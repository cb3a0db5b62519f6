"""Responses while a dependency is broken, and for unknown paths."""

from __future__ import annotations

import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from api.job_queue import THREADS
from config import Settings
from pipeline.download.ssrf.url_guard import UrlGuard
from pipeline.errors import ErrorCode, InfrastructureError, PermanentError
from pipeline.transport import Message
from pipeline.transport.embedded.transport import EmbeddedTransport
from tests.api.conftest import Service, resolve, serve
from tests.api.http_client import DEADLINE, Client

Job = dict[str, Any]


@contextmanager
def broken_queue(service: Service) -> Iterator[None]:
    """Removes the broker's table for a while."""
    with closing(sqlite3.connect(service.settings.state.broker_file)) as connection:
        connection.execute("ALTER TABLE messages RENAME TO elsewhere")
        try:
            yield
        finally:
            connection.execute("ALTER TABLE elsewhere RENAME TO messages")


def test_a_broken_broker_is_answered_503(own_service: Service, job: Job) -> None:
    with broken_queue(own_service):
        answer = own_service.client.post(job)

    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json["error"] == "The queue has not confirmed the job in time: it was not accepted, try again later"
    assert answer.json["details"] == {"code": "broker_unavailable"}
    assert own_service.queued() == []
    assert own_service.reported() == []
    assert own_service.client.post(job).status == 202
    assert len(own_service.queued()) == 1


class SlowTransport(EmbeddedTransport):
    """A slow broker."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked, self.goes_on = threading.Event(), threading.Event()

    def publish(self, *messages: Message) -> None:
        self.asked.set()
        assert self.goes_on.wait(DEADLINE)
        super().publish(*messages)


def test_a_slow_broker_does_not_block_other_requests(make_settings: Callable[..., Settings], job: Job) -> None:
    settings = make_settings()
    transport = SlowTransport(settings.state.broker_file)

    with serve(settings, transport) as service, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(service.client.post, job)
        try:
            assert transport.asked.wait(DEADLINE)
            assert service.client.get("/health").status == 200
            assert not waiting.done()
        finally:
            transport.goes_on.set()

        assert waiting.result(DEADLINE).status == 202


class HangingTransport(EmbeddedTransport):
    """A broker that blocks every publication until the test releases it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked = threading.Semaphore(0)
        self.gives_up = threading.Event()

    def publish(self, *messages: Message) -> None:
        if not self.gives_up.is_set():
            self.asked.release()
            assert self.gives_up.wait(DEADLINE)
            raise InfrastructureError("the broker does not answer", code=ErrorCode.BROKER_UNAVAILABLE)
        super().publish(*messages)


def test_requests_do_not_wait_for_each_other_behind_a_broker_that_hangs(
    make_settings: Callable[..., Settings], job: Job
) -> None:
    settings = make_settings(CLIENT_BURST="1", CLIENT_REFILL="100000")
    transport = HangingTransport(settings.state.broker_file)

    with serve(settings, transport) as service, ThreadPoolExecutor(THREADS) as pool:
        waiting = [pool.submit(service.client.post, job) for _ in range(THREADS)]
        try:
            assert all(transport.asked.acquire(timeout=DEADLINE) for _ in waiting)
            crowd = [service.client.post(job) for _ in range(3)]
            readiness = service.client.get("/ready")
            assert not any(answer.done() for answer in waiting)
        finally:
            transport.gives_up.set()
        answers = [*crowd, *(answer.result(DEADLINE) for answer in waiting)]

        assert {answer.status for answer in answers} == {503}
        assert all(int(answer.headers["retry-after"]) > 0 for answer in answers)
        assert {answer.json["details"]["code"] for answer in answers} == {"broker_unavailable"}
        assert readiness.status == 200
        assert service.queued_where() == {}
        assert service.client.post(job).status == 202
        assert list(service.queued_where().values()) == ["uvr_tasks"]


class NarrowTransport(EmbeddedTransport):
    """A broker that refuses every message as too large."""

    def publish(self, *messages: Message) -> None:
        raise PermanentError("the message is too large", code=ErrorCode.MESSAGE_TOO_LARGE)


class DefectiveTransport(EmbeddedTransport):
    """A broker that raises an unexpected error."""

    def publish(self, *messages: Message) -> None:
        raise RuntimeError("password is hunter2 in /srv/secret.py")


def test_a_job_over_the_broker_s_limit_is_answered_413(make_settings: Callable[..., Settings], job: Job) -> None:
    settings = make_settings()

    with serve(settings, NarrowTransport(settings.state.broker_file)) as service:
        answer = service.client.post(job)

    assert (answer.status, answer.json["details"]) == (413, {"code": "message_too_large"})


def test_an_unexpected_error_shows_no_internals(make_settings: Callable[..., Settings], job: Job) -> None:
    settings = make_settings()

    with serve(settings, DefectiveTransport(settings.state.broker_file)) as service:
        answer = service.client.post(job)

        assert (answer.status, answer.json) == (500, {"error": "Internal server error", "details": None})
        assert service.client.get("/health").status == 200


def test_a_name_server_that_hangs_does_not_block_the_api(make_settings: Callable[..., Settings], job: Job) -> None:
    answered = threading.Event()

    def hang(host: str, port: int, **hints: object) -> list[tuple[Any, ...]]:
        answered.wait()
        return resolve(host, port, **hints)

    with serve(make_settings(), guard=UrlGuard(False, resolver=hang, resolve_timeout=0.05)) as service:
        try:
            assert service.client.post(job).status == 202
        finally:
            answered.set()
        assert len(service.queued()) == 1


def test_a_client_that_disconnects_does_not_harm_the_service(service: Service, job: Job) -> None:
    head = (
        f"POST /generate HTTP/1.1\r\nHost: x\r\nAuthorization: {service.client.authorization}\r\n"
        "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    )
    with socket.create_connection(("127.0.0.1", service.client.port)) as connection:
        connection.sendall(head.encode())

    assert service.client.post(job).status == 202
    assert len(service.queued()) == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/nothing"),
        ("POST", "/generate/"),
        ("GET", "/tasks"),
        ("GET", "/health/x"),
        ("POST", "//generate"),
    ],
)
def test_an_unknown_path_is_not_found(client: Client, method: str, path: str) -> None:
    answer = client.request(method, path)

    assert (answer.status, answer.json) == (404, {"error": "Endpoint not found"})


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/generate", "POST"), ("DELETE", "/generate", "POST"), ("POST", "/health", "GET")],
)
def test_an_unknown_method_is_not_allowed(client: Client, method: str, path: str, allowed: str) -> None:
    answer = client.request(method, path)

    assert (answer.status, answer.json) == (405, {"error": "Method not allowed", "details": None})
    assert answer.headers["allow"] == allowed
