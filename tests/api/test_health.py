"""``/health`` and ``/ready``."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
import structlog

from api import health
from api.health import Probe
from pipeline.errors import ErrorCode, InfrastructureError
from tests.api.conftest import Service
from tests.api.http_client import DEADLINE, Answer, Client
from tests.api.test_failures import broken_queue


def test_health(client: Client) -> None:
    answer = client.get("/health")

    assert answer.status == 200
    assert answer.json["status"] == "healthy"
    assert type(answer.json["timestamp"]) is int
    assert abs(answer.json["timestamp"] - time.time()) < DEADLINE
    assert set(answer.json) == {"status", "timestamp", "version"}


def test_ready_when_everything_answers(client: Client) -> None:
    answer = client.get("/ready")

    assert answer.status == 200
    assert answer.json == {
        "status": "ready",
        "components": {"broker": {"status": "ready"}, "storage": {"status": "ready"}},
    }


def ready_with(status: int, client: Client) -> Answer:
    """Ask for the readiness until it has this status: an answer is reused for a while."""
    deadline = time.monotonic() + DEADLINE
    while (answer := client.get("/ready")).status != status:
        assert time.monotonic() < deadline
    return answer


def test_a_broken_store_is_named(own_service: Service) -> None:
    folder = own_service.settings.state.stems_dir
    own_service.client.get("/ready")
    for path in (*folder.iterdir(), folder):
        path.rmdir()
    folder.write_text("a file where the folder should be")

    answer = ready_with(503, own_service.client)

    assert (answer.status, answer.json["status"]) == (503, "unavailable")
    assert answer.json["components"]["broker"] == {"status": "ready"}
    assert answer.json["components"]["storage"]["status"] == "unavailable"
    assert answer.json["components"]["storage"]["error"].startswith("a local file cannot be read or written")
    assert str(folder) not in answer.body.decode()


def test_readiness_recovers(own_service: Service) -> None:
    folder = own_service.settings.state.stems_dir
    folder.write_text("a file where the folder should be")
    assert own_service.client.get("/ready").status == 503

    folder.unlink()

    ready_with(200, own_service.client)


def test_many_readiness_requests_check_each_component_once() -> None:
    checks: list[None] = []

    async def ask() -> None:
        probe = Probe("storage", lambda: checks.append(None))
        await asyncio.gather(*(probe.component() for _ in range(50)))
        for _ in range(50):
            assert (await probe.component()).status == "ready"

    asyncio.run(ask())
    assert len(checks) == 1


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
def test_head_is_answered_like_get(client: Client, path: str) -> None:
    head, get = client.request("HEAD", path), client.get(path)

    assert (head.status, head.headers["content-type"]) == (200, get.headers["content-type"])
    assert int(head.headers["content-length"]) > 0
    assert head.body == b""


def test_health_does_not_depend_on_the_broker(own_service: Service) -> None:
    with broken_queue(own_service):
        assert own_service.client.get("/health").status == 200


def test_a_check_that_hangs_occupies_one_thread() -> None:
    answered = threading.Event()
    calls: list[None] = []

    def hang() -> None:
        calls.append(None)
        answered.wait(DEADLINE)

    async def ask() -> None:
        probe = Probe("broker", hang, timeout=0.02)
        hanging = await asyncio.gather(*(probe.component() for _ in range(5)))
        hanging.append(await probe.component())
        assert {component.status for component in hanging} == {"unavailable"}
        assert hanging[0].error == "no answer within 0.02 s"
        assert len(calls) == 1  # Five requests share one thread.
        answered.set()
        async with asyncio.timeout(DEADLINE):
            while (await probe.component()).status != "ready":
                pass

    asyncio.run(ask())


def test_a_check_reports_its_reason_and_a_broken_check_hides_internals() -> None:
    def unavailable() -> None:
        raise InfrastructureError("the broker does not answer", code=ErrorCode.BROKER_UNAVAILABLE)

    def defective() -> None:
        raise RuntimeError("password=hunter2")

    async def ask() -> None:
        assert (await Probe("broker", unavailable).component()).error == "the broker does not answer"
        assert (await Probe("broker", defective).component()).error == "the check itself failed"

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (InfrastructureError("the broker does not answer", code=ErrorCode.BROKER_UNAVAILABLE), "component_unavailable"),
        (RuntimeError("a defect"), "check_failed"),
    ],
)
def test_many_probes_log_a_fault_once(monkeypatch: pytest.MonkeyPatch, error: Exception, event: str) -> None:
    faults = [error] * 20
    monkeypatch.setattr(health, "UNAVAILABLE_FOR", 0.0)  # Each probe runs the check.

    def check() -> None:
        if faults:
            raise faults.pop()

    async def ask() -> None:
        probe = Probe("broker", check)
        while (await probe.component()).status != "ready":
            pass

    with structlog.testing.capture_logs() as lines:
        asyncio.run(ask())
    assert [line["event"] for line in lines] == [event, "component_available"]
