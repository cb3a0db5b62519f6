"""The topic of a job: that of its priority within the client's rate limit, the bulk topic above it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from config import Settings
from tests.api.conftest import Service, serve
from tests.api.http_client import Answer
from tests.api.test_failures import broken_queue

Job = dict[str, Any]

BURST = 2


@pytest.fixture(scope="module")
def _thrifty(make_settings: Callable[..., Settings]) -> Iterator[Service]:
    with serve(make_settings(CLIENT_BURST=str(BURST), CLIENT_REFILL="100000")) as service:
        yield service


@pytest.fixture
def thrifty(_thrifty: Service) -> Service:
    """A service whose rate limit is two jobs for the duration of a test."""
    _thrifty.queued()
    return _thrifty


def post(service: Service, job: Job, client: str | None = None) -> str:
    """Post the job and return its topic."""
    answer = service.client.post(job, {"X-Client-Id": client})
    assert answer.status == 202, answer.json
    return service.queued_where()[answer.json["task_uuid"]]


@pytest.mark.parametrize(
    ("priority", "topic"),
    [
        (1, "uvr_tasks_p1"),
        (2, "uvr_tasks_p2"),
        (3, "uvr_tasks"),
        (None, "uvr_tasks"),
        (4, "uvr_tasks_p4"),
        (5, "uvr_tasks_p5"),
    ],
)
def test_every_priority_has_a_topic(service: Service, job: Job, priority: int | None, topic: str) -> None:
    assert post(service, {**job, "priority": priority}) == topic


def test_jobs_above_the_rate_limit_go_to_bulk(thrifty: Service, job: Job) -> None:
    topics = [post(thrifty, {**job, "priority": priority}, "team 1") for priority in (5, 3, 5, 1)]

    assert topics == ["uvr_tasks_p5", "uvr_tasks", "uvr_tasks_bulk", "uvr_tasks_bulk"]
    assert post(thrifty, job, "team 2") == "uvr_tasks"


def test_the_default_client_name_is_the_host_of_the_webhook(thrifty: Service, job: Job) -> None:
    hooks = [
        "https://one.example.com/a",
        "http://ONE.example.com.:80/b?c=d",
        "https://one.example.com/a",
        "https://two.example.com/a",
    ]

    topics = [post(thrifty, {**job, "hook_url": hook}) for hook in hooks]

    assert topics == ["uvr_tasks", "uvr_tasks", "uvr_tasks_bulk", "uvr_tasks"]


def test_the_client_header_takes_precedence_over_the_webhook(thrifty: Service, job: Job) -> None:
    for name in ("x", "y"):
        topics = [post(thrifty, {**job, "hook_url": f"https://{part}.example.com/"}, name) for part in "abc"]
        assert topics == ["uvr_tasks", "uvr_tasks", "uvr_tasks_bulk"]


def test_refused_jobs_do_not_count(thrifty: Service, job: Job) -> None:
    def refusals() -> Iterator[Answer]:
        with broken_queue(thrifty):
            yield thrifty.client.post(job, {"X-Client-Id": "unlucky"})
        yield thrifty.client.post({**job, "priority": 9}, {"X-Client-Id": "unlucky"})
        yield thrifty.client.post(job, {"X-Client-Id": "unlucky", "Authorization": None})

    for _ in range(BURST):
        assert [answer.status for answer in refusals()] == [503, 422, 401]

    topics = [post(thrifty, job, "unlucky") for _ in range(BURST + 1)]
    assert topics == ["uvr_tasks", "uvr_tasks", "uvr_tasks_bulk"]


@pytest.mark.parametrize("name", ["", "~" * 129, "k\xe4se", "a\tb"])
def test_a_name_that_cannot_be_logged_is_refused(service: Service, job: Job, name: str) -> None:
    answer = service.client.post(job, {"X-Client-Id": name})

    assert answer.status == 422
    assert answer.json["error"] == "X-Client-Id must be sent once, and be 1 to 128 printable ASCII characters"
    assert answer.json["details"] == {"field": "X-Client-Id"}
    assert service.queued() == []


def test_the_client_name_is_not_part_of_the_message(service: Service, job: Job) -> None:
    service.client.post(job, {"X-Client-Id": "nobody-else-s-business"})

    (message,) = service.tasks.drain()
    assert b"nobody-else-s-business" not in message.value + repr(message.headers).encode()
