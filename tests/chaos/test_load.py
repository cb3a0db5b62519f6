"""Clients ask until they are accepted, each time under another name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import pytest

from tests.chaos.ledger import Answered, Asked, Ledger
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


def answer_with(api: SourceServer, *behaviours: Behaviour) -> None:
    """One after the other; the last one for ever."""
    turns = chain(behaviours, repeat(behaviours[-1]))
    api.add("/generate", lambda exchange: next(turns)(exchange))


def job(song: str = "one", at: float = 0.0) -> PlannedJob:
    return PlannedJob(1, at, song, 4, "greedy")


def answers(ledger: Ledger) -> list[tuple[str, int | None]]:
    return [(entry.post, entry.status) for entry in ledger.entries if isinstance(entry, Answered)]


def test_every_try_is_a_job_of_its_own(api: SourceServer, ledger: Ledger, load: Load) -> None:
    answer_with(api, answer(503, {"Retry-After": "1"}), Exchange.reset, ACCEPTED)
    load.run([job()])
    assert answers(ledger) == [("post-1", 503), ("post-2", None), ("post-3", 202)]
    bodies = [json.loads(request.body) for request in api.requests]
    assert [body["metadata"]["post"] for body in bodies] == ["post-1", "post-2", "post-3"]


def test_it_is_written_down_before_it_is_sent(api: SourceServer, ledger: Ledger, load: Load) -> None:
    seen: list[bool] = []

    def look(exchange: Exchange) -> None:
        seen.append(isinstance(ledger.entries[-1], Asked))
        ACCEPTED(exchange)

    api.add("/generate", look)
    load.run([job()])
    assert seen == [True]


def test_what_is_asked_for(api: SourceServer, ledger: Ledger, load: Load) -> None:
    answer_with(api, ACCEPTED)
    load.run([job(), job(POISON)])
    assert {request.headers["x-client-id"] for request in api.requests} == {"greedy"}
    plain, poison = sorted((json.loads(request.body) for request in api.requests), key=len)
    assert (plain["audio"], plain["hook_url"], plain["priority"]) == ("http://source/one", "http://receiver/hook", 4)
    assert poison["model"]
    assert {entry.task_uuid for entry in ledger.entries if isinstance(entry, Answered)} == {"t"}


def test_clients_can_be_told_to_stop(api: SourceServer, ledger: Ledger, load: Load) -> None:
    def refuse_and_stop(exchange: Exchange) -> None:
        load.stop()
        exchange.respond(500, b"oh dear")

    api.add("/generate", refuse_and_stop)
    load.run([job(), job(at=3600.0)])
    assert answers(ledger) == [("post-1", 500)]
