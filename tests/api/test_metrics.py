"""``GET /metrics``: the counters and their bounded labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from config import Settings
from tests.api.conftest import Service, serve
from tests.api.http_client import Client
from tests.api.test_failures import DefectiveTransport, broken_queue

Job = dict[str, Any]
Counts = dict[tuple[str, ...], float]

_COUNTERS = {
    "uvr_http_requests_total": ("method", "route", "status"),
    "uvr_http_refused_total": ("route", "reason"),
    "uvr_jobs_accepted_total": ("queue",),
}


def counts(client: Client) -> Counts:
    """The counters of the API, by name and labels."""
    answer = client.get("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain")
    samples = [sample for family in text_string_to_metric_families(answer.body.decode()) for sample in family.samples]
    return {
        (sample.name, *(sample.labels[label] for label in _COUNTERS[sample.name])): sample.value
        for sample in samples
        if sample.name in _COUNTERS
    }


@contextmanager
def counted(client: Client) -> Iterator[Counts]:
    """Collects the increments of the counters during the block, without those of this collection itself."""
    before, changes = counts(client), Counts()
    yield changes
    changes.update({name: value - before.get(name, 0) for name, value in counts(client).items()})
    changes["uvr_http_requests_total", "GET", "/metrics", "200"] -= 1
    for name in [name for name, value in changes.items() if not value]:
        del changes[name]


def test_an_accepted_job_is_counted(service: Service, job: Job) -> None:
    with counted(service.client) as changes:
        service.client.post(job)
        service.client.post({**job, "priority": 1})

    assert changes == {
        ("uvr_http_requests_total", "POST", "/generate", "202"): 2,
        ("uvr_jobs_accepted_total", "priority"): 2,
    }


def test_a_job_above_its_client_s_share_is_counted_as_bulk(make_settings: Callable[..., Settings], job: Job) -> None:
    settings = make_settings(CLIENT_BURST="1", CLIENT_REFILL="100000")
    with serve(settings) as service, counted(service.client) as changes:
        for _ in range(3):
            service.client.post(job)

    assert changes["uvr_jobs_accepted_total", "priority"] == 1
    assert changes["uvr_jobs_accepted_total", "bulk"] == 2


@pytest.mark.parametrize(
    ("fields", "headers", "status", "reason"),
    [
        ({}, {"Authorization": None}, "401", "credentials"),
        ({}, {"Content-Type": "text/plain"}, "400", "malformed"),
        ({"audio": "ftp://x"}, {}, "400", "malformed"),
        ({"audio": "http://127.0.0.1/"}, {}, "403", "url_forbidden"),
        ({"metadata": {"a": "x" * 60_000}}, {}, "413", "too_large"),
        ({"priority": 0}, {}, "422", "out_of_range"),
        ({}, {"X-Client-Id": ""}, "422", "out_of_range"),
    ],
)
def test_a_refusal_is_counted_with_its_reason(
    client: Client, job: Job, fields: Job, headers: dict[str, str | None], status: str, reason: str
) -> None:
    with counted(client) as changes:
        client.post({**job, **fields}, headers)

    assert changes == {
        ("uvr_http_requests_total", "POST", "/generate", status): 1,
        ("uvr_http_refused_total", "/generate", reason): 1,
    }


def test_an_unavailable_broker_is_counted(own_service: Service, job: Job) -> None:
    with counted(own_service.client) as changes, broken_queue(own_service):
        own_service.client.post(job)

    assert changes == {
        ("uvr_http_requests_total", "POST", "/generate", "503"): 1,
        ("uvr_http_refused_total", "/generate", "broker_unavailable"): 1,
    }


def test_an_unexpected_error_is_counted(make_settings: Callable[..., Settings], job: Job) -> None:
    settings = make_settings()
    transport = DefectiveTransport(settings.state.broker_file)
    with serve(settings, transport) as service, counted(service.client) as changes:
        service.client.post(job)

    assert changes == {("uvr_http_requests_total", "POST", "/generate", "500"): 1}


@pytest.mark.parametrize(
    ("method", "path", "counted_as"),
    [
        ("GET", "/files/some/key.wav?expires=1&signature=x", ("GET", "/files/{key}", "403")),
        ("GET", "/health", ("GET", "/health", "200")),
        ("GET", "/generate", ("GET", "/generate", "405")),
        ("BREW", "/generate", ("other", "/generate", "405")),
        ("GET", "/wp-login.php", ("GET", "other", "404")),
        ("BREW", "/%2e%2e/x", ("other", "other", "404")),
    ],
)
def test_no_path_becomes_a_label(client: Client, method: str, path: str, counted_as: tuple[str, ...]) -> None:
    with counted(client) as changes:
        client.request(method, path)

    requests = [name for name in changes if name[0] == "uvr_http_requests_total"]
    assert requests == [("uvr_http_requests_total", *counted_as)]


def test_all_metrics_of_the_process_are_exposed(client: Client) -> None:
    body = client.get("/metrics").body.decode()

    assert "# TYPE uvr_circuit_open gauge" in body
    assert "# HELP uvr_http_requests_total " in body
