"""Books that were cooked are found out, whatever was done to them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.audit import figures, problems
from tests.chaos.ledger import (
    Answered,
    Asked,
    DeadLetter,
    Entry,
    Failed,
    Lag,
    Leftover,
    PoisonTaken,
    Progressed,
    Reference,
    Reported,
    Stored,
    Told,
)
from tests.chaos.schedule import MISSING, POISON

STEMS = {"vocals": ("aa", 100), "instrumental": ("bb", 200)}


def asked(post: str, song: str = "one") -> Asked:
    return Asked(post=post, song=song, priority=3, client="")


def accepted(post: str, task: str) -> Answered:
    return Answered(post=post, status=202, task_uuid=task, seconds=0.1)


def refused(post: str) -> Answered:
    return Answered(post=post, status=503, seconds=0.1, retry_after=True)


def unanswered(post: str) -> Answered:
    return Answered(post=post, status=None, seconds=8.0)


def told(task: str, post: str, answered: int = 200, **changes: Any) -> Told:
    stems = [
        {"name": name, "sha256": sha256, "bytes": size, "format": "wav", "url": f"http://s3/uvr/{task}_{name}.wav?X=1"}
        for name, (sha256, size) in STEMS.items()
    ]
    body = {"task_uuid": task, "status": "success", "stems": stems, "metadata": {"post": post}, **changes}
    return Told(task_uuid=task, webhook_id=f"msg_{task}", body=json.dumps(body), answered=answered, signed=True)


def failed(task: str, post: str, code: str) -> Told:
    return told(task, post, status="failed", stems=None, error={"code": code}, error_message="it failed")


def stored(task: str) -> list[Entry]:
    return [Stored(key=f"{task}_{name}.wav", sha256=sha256, bytes=size) for name, (sha256, size) in STEMS.items()]


def honest() -> list[Entry]:
    """A run in which all went well: a song, one that is missing, one that is poison, and a lost answer."""
    return [
        Reference(song="one", stems=STEMS),
        *(asked("p1"), refused("p1"), asked("p2"), accepted("p2", "t2"), told("t2", "p2"), *stored("t2")),
        *(asked("p3", MISSING), accepted("p3", "t3"), failed("t3", "p3", "source_not_found")),
        *(asked("p4", POISON), accepted("p4", "t4"), PoisonTaken(child="processor-1")),
        DeadLetter(key="t4", code="worker_died"),
        Reported(task_uuid="t4", status="failed"),
        Reported(task_uuid="t2", status="success"),
        failed("t4", "p4", "worker_died"),
        *(asked("p5"), unanswered("p5"), told("t5", "p5"), *stored("t5")),
        Stored(key="outcomes/t2.json", sha256="cc", bytes=10),
        *(Progressed(service="processor-1", task_uuid=task, step="separated") for task in ("t2", "t5")),
    ]


def only_problem(entries: Sequence[Entry]) -> str:
    found = problems(entries)
    assert len(found) == 1, found
    return found[0]


def changed(kind: type[Entry], task: str, **changes: Any) -> list[Entry]:
    """The honest books with the entries about one task changed."""
    return [
        replace(entry, **changes) if isinstance(entry, kind) and task in str(entry) else entry for entry in honest()
    ]


def without(kind: type[Entry], task: str) -> list[Entry]:
    return [entry for entry in honest() if not (isinstance(entry, kind) and task in str(entry))]


def test_honest_books_hold() -> None:
    assert problems(honest()) == []


def test_the_figures_are_what_happened() -> None:
    counted = figures([*honest(), told("t2", "p2"), told("t2", "p2", answered=503)])
    assert (counted.posts, counted.accepted, counted.told, counted.lost) == (5, 3, 3, 0)
    assert (counted.refused, counted.unanswered) == (1, 1)
    assert (counted.unknown_accepted, counted.accepted_after_refusal) == (1, 0)
    assert (counted.webhooks_repeated, counted.separations_repeated, counted.contradictions) == (1, 0, 0)
    assert (counted.quarantined, counted.poison_taken) == (1, 1)


def test_a_second_separation_is_counted() -> None:
    again = Progressed(service="processor-2", task_uuid="t2", step="separated")
    assert figures([*honest(), again]).separations_repeated == 1


def test_a_job_that_nobody_was_told_of_is_lost() -> None:
    entries = without(Told, "t3")
    assert only_problem(entries).startswith("lost: t3")
    assert figures(entries).lost == 1


def test_a_webhook_that_was_not_taken_does_not_count() -> None:
    assert only_problem(changed(Told, "t3", answered=503)).startswith("lost: t3")


def test_a_job_that_nobody_asked_for() -> None:
    assert only_problem([*honest(), failed("t9", "p9", "source_not_found")]).startswith("told of t9")


def test_a_job_under_another_name_than_the_client_was_given() -> None:
    entries = [*honest(), failed("t9", "p3", "source_not_found")]
    assert only_problem(entries) == "told of t9, but the client got 202 for t3"


def test_a_job_after_a_503_is_counted_apart() -> None:
    entries = [*honest(), told("t1", "p1"), *stored("t1")]
    assert problems(entries) == []
    assert figures(entries).accepted_after_refusal == 1


def test_two_bodies_under_one_id() -> None:
    entries = [*honest(), told("t2", "p2", timestamp=7)]
    assert only_problem(entries) == "msg_t2 has 2 different bodies: timestamp"
    assert figures(entries).contradictions == 1


def test_two_outcomes() -> None:
    found = problems([*honest(), failed("t2", "p2", "internal")])
    assert any("t2 has 2 outcomes: failed, success" in problem for problem in found)


def test_a_report_that_is_not_what_was_told() -> None:
    entries = [*honest(), Reported(task_uuid="t2", status="failed")]
    assert only_problem(entries) == "t2 has 2 outcomes: failed, success"


def test_a_dead_letter_that_is_no_poison() -> None:
    entries = [*honest(), DeadLetter(key="t2", code="webhook_failed")]
    assert only_problem(entries) == "a dead letter that is no poison: t2, webhook_failed"


def test_two_webhook_ids() -> None:
    again = replace(told("t2", "p2"), webhook_id="msg_other")
    assert only_problem([*honest(), again]) == "t2 has 2 webhook ids: msg_other, msg_t2"


def test_a_body_that_differs_only_where_it_was_not_taken() -> None:
    """Whether the receiver answered well has nothing to do with it: it may have kept what it was told."""
    assert "different bodies" in only_problem([*honest(), told("t2", "p2", answered=503, timings={})])


def test_a_song_that_should_have_been_separated() -> None:
    entries = [*without(Told, "t5"), failed("t5", "p5", "worker_died")]
    entries = [entry for entry in entries if not (isinstance(entry, Stored) and entry.key.startswith("t5"))]
    assert only_problem(entries) == "t5 (one): it should have been separated, and was told: it failed"


def test_a_song_that_cannot_have_been_separated() -> None:
    entries = [*without(Told, "t3"), told("t3", "p3"), *stored("t3")]
    assert only_problem(entries) == "t3 (missing): it should have failed, and its status is success"


def test_a_failure_for_the_wrong_reason() -> None:
    entries = [*without(Told, "t3"), failed("t3", "p3", "internal")]
    assert "not with internal" in only_problem(entries)


def test_stems_that_are_not_the_reference() -> None:
    entries = [Reference(song="one", stems={**STEMS, "vocals": ("zz", 100)}), *honest()[1:]]
    assert all("its stems are not those of the reference" in problem for problem in problems(entries))
    assert len(problems(entries)) == 2


@pytest.mark.parametrize("change", [{"sha256": "zz"}, {"bytes": 1}])
def test_an_object_that_is_not_what_was_told(change: dict[str, Any]) -> None:
    assert "is not what was told" in only_problem(changed(Stored, "t2_vocals", **change))


def test_an_object_that_is_not_there() -> None:
    assert "is not what was told: None" in only_problem(without(Stored, "t2_vocals"))


def test_a_link_to_another_object() -> None:
    stems = json.loads(told("t2", "p2").body)["stems"]
    stems[0]["url"] = stems[1]["url"]
    entries = [*without(Told, "t2"), told("t2", "p2", stems=stems)]
    assert only_problem(entries) == "t2 (one): the link to vocals leads to t2_instrumental.wav"


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("handoff/t2/vocals-aa.wav", "left in the hand-off: handoff/t2/vocals-aa.wav"),
        ("t3_vocals.wav", "an object of no job: t3_vocals.wav"),
    ],
)
def test_an_object_too_many(key: str, problem: str) -> None:
    assert only_problem([*honest(), Stored(key=key, sha256="aa", bytes=100)]) == problem


def test_a_webhook_that_is_not_signed() -> None:
    assert "is not signed" in only_problem(changed(Told, "t3", signed=False))


def test_a_503_that_does_not_say_when_to_come_again() -> None:
    assert only_problem(changed(Answered, "p1", retry_after=False)) == "a 503 without Retry-After (p1)"


def test_an_answer_that_is_neither() -> None:
    assert only_problem(changed(Answered, "p1", status=500, why="oh")) == "the API answered 500: oh"


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (Leftover(what="a file"), "left behind: a file"),
        (Failed(what="a broker is gone"), "a broker is gone"),
        (
            Lag(group="g", topic="uvr_tasks", partition=1, behind=2, messages=5),
            "g is 2 messages behind in uvr_tasks/1",
        ),
        (
            Lag(group="g", topic="uvr_tasks", partition=1, behind=None, messages=5),
            "g has settled nothing of the 5 messages in uvr_tasks/1",
        ),
    ],
)
def test_what_is_left_in_the_end(entry: Entry, problem: str) -> None:
    assert only_problem([*honest(), entry]) == problem
