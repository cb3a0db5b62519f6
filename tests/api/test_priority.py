"""To which topic a job goes: by its priority while its client is within his share, to bulk above it."""

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
    """A service that lets two jobs of a client in front, and no more while a test runs."""
    _thrifty.queued()
    return _thrifty


def post(service: Service, job: Job, client: str | None = None) -> str:
    """The topic that the job went to."""
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


def test_jobs_above_the_share_of_a_client_go_to_bulk_whatever_their_priority(thrifty: Service, job: Job) -> None:
    topics = [post(thrifty, {**job, "priority": priority}, "team 1") for priority in (5, 3, 5, 1)]

    assert topics == ["uvr_tasks_p5", "uvr_tasks", "uvr_tasks_bulk", "uvr_tasks_bulk"]
    assert post(thrifty, job, "team 2") == "uvr_tasks"


def test_who_gives_no_name_is_known_by_the_host_of_his_webhook(thrifty: Service, job: Job) -> None:
    hooks = [
        "https://one.example.com/a",
        "http://ONE.example.com.:80/b?c=d",
        "https://one.example.com/a",
        "https://two.example.com/a",
    ]

    topics = [post(thrifty, {**job, "hook_url": hook}) for hook in hooks]

    assert topics == ["uvr_tasks", "uvr_tasks", "uvr_tasks_bulk", "uvr_tasks"]


def test_the_name_is_believed_and_not_the_webhook(thrifty: Service, job: Job) -> None:
    for name in ("x", "y"):
        topics = [post(thrifty, {**job, "hook_url": f"https://{part}.example.com/"}, name) for part in "abc"]
        assert topics == ["uvr_tasks", "uvr_tasks", "uvr_tasks_bulk"]


def test_what_was_not_accepted_is_not_counted(thrifty: Service, job: Job) -> None:
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


def test_the_client_s_name_does_not_travel(service: Service, job: Job) -> None:
    service.client.post(job, {"X-Client-Id": "nobody-else-s-business"})

    (message,) = service.tasks.drain()
    assert b"nobody-else-s-business" not in message.value + repr(message.headers).encode()
