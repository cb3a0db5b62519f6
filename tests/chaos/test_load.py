"""Tests of the clients: they repeat requests until they are accepted, each time with a new post."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import pytest

from tests.chaos.audit.ledger import Ledger, RequestSent, ResponseReceived
from tests.chaos.load import Load
from tests.chaos.schedule import POISON, PlannedJob
from tests.support.source_server import Behaviour, Exchange, SourceServer, answer

ACCEPTED = answer(202, {"Content-Type": "application/json"}, b'{"task_uuid": "t"}')


@pytest.fixture
def api() -> Iterator[SourceServer]:
    with SourceServer() as server:
        yield server


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        yield ledger


@pytest.fixture
def load(api: SourceServer, ledger: Ledger) -> Load:
    return Load(ledger, api.url(""), source_url="http://source", hook_url="http://receiver/hook", name="post")


def respond_with(api: SourceServer, *behaviours: Behaviour) -> None:
    """Respond with the behaviours one after the other, then always with the last one."""
    turns = chain(behaviours, repeat(behaviours[-1]))
    api.add("/generate", lambda exchange: next(turns)(exchange))


def job(song: str = "one", at: float = 0.0) -> PlannedJob:
    return PlannedJob(1, at, song, 4, "greedy")


def answers(ledger: Ledger) -> list[tuple[str, int | None]]:
    return [(entry.post, entry.status) for entry in ledger.entries if isinstance(entry, ResponseReceived)]


def test_every_attempt_is_a_separate_job(api: SourceServer, ledger: Ledger, load: Load) -> None:
    respond_with(api, answer(503, {"Retry-After": "1"}), Exchange.reset, ACCEPTED)
    load.run([job()])
    assert answers(ledger) == [("post-1", 503), ("post-2", None), ("post-3", 202)]
    bodies = [json.loads(request.body) for request in api.requests]
    assert [body["metadata"]["post"] for body in bodies] == ["post-1", "post-2", "post-3"]


def test_request_is_recorded_before_it_is_sent(api: SourceServer, ledger: Ledger, load: Load) -> None:
    seen: list[bool] = []

    def look(exchange: Exchange) -> None:
        seen.append(isinstance(ledger.entries[-1], RequestSent))
        ACCEPTED(exchange)

    api.add("/generate", look)
    load.run([job()])
    assert seen == [True]


def test_request_fields(api: SourceServer, ledger: Ledger, load: Load) -> None:
    respond_with(api, ACCEPTED)
    load.run([job(), job(POISON)])
    assert {request.headers["x-client-id"] for request in api.requests} == {"greedy"}
    plain, poison = sorted((json.loads(request.body) for request in api.requests), key=len)
    assert (plain["audio"], plain["hook_url"], plain["priority"]) == ("http://source/one", "http://receiver/hook", 4)
    assert poison["model"]
    assert {entry.task_uuid for entry in ledger.entries if isinstance(entry, ResponseReceived)} == {"t"}


def test_stop_ends_the_requests(api: SourceServer, ledger: Ledger, load: Load) -> None:
    def refuse_and_stop(exchange: Exchange) -> None:
        load.stop()
        exchange.respond(500, b"error")

    api.add("/generate", refuse_and_stop)
    load.run([job(), job(at=3600.0)])
    assert answers(ledger) == [("post-1", 500)]
