"""Tests that the audit detects every kind of manipulated ledger."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.audit.audit import figures, problems
from tests.chaos.audit.ledger import (
    DeadLetter,
    Entry,
    Lag,
    Leftover,
    LogDestroyed,
    ObjectFound,
    PoisonBegan,
    Reference,
    RequestSent,
    ResponseReceived,
    RunFailed,
    StateReported,
    StepLogged,
    WebhookReceived,
)
from tests.chaos.schedule import MISSING, POISON

STEMS = {"vocals": ("aa", 100), "instrumental": ("bb", 200)}


def request(post: str, song: str = "one") -> RequestSent:
    return RequestSent(post=post, song=song, priority=3, client="")


def accepted(post: str, task: str) -> ResponseReceived:
    return ResponseReceived(post=post, status=202, task_uuid=task, seconds=0.1)


def refused(post: str) -> ResponseReceived:
    return ResponseReceived(post=post, status=503, seconds=0.1, retry_after=True)


def unanswered(post: str) -> ResponseReceived:
    return ResponseReceived(post=post, status=None, seconds=8.0)


def webhook(task: str, post: str, response: int = 200, **changes: Any) -> WebhookReceived:
    stems = [
        {"name": name, "sha256": sha256, "bytes": size, "format": "wav", "url": f"http://s3/uvr/{task}_{name}.wav?X=1"}
        for name, (sha256, size) in STEMS.items()
    ]
    body = {"task_uuid": task, "status": "success", "stems": stems, "metadata": {"post": post}, **changes}
    return WebhookReceived(
        task_uuid=task, webhook_id=f"msg_{task}", body=json.dumps(body), status=response, signed=True
    )


def failed(task: str, post: str, code: str) -> WebhookReceived:
    return webhook(task, post, status="failed", stems=None, error={"code": code}, error_message="it failed")


def stored(task: str) -> list[Entry]:
    return [ObjectFound(key=f"{task}_{name}.wav", sha256=sha256, bytes=size) for name, (sha256, size) in STEMS.items()]


def valid_run() -> list[Entry]:
    """Return the ledger of a valid run: a song, a missing one, poison, and a lost response."""
    return [
        Reference(song="one", stems=STEMS),
        *(request("p1"), refused("p1"), request("p2"), accepted("p2", "t2"), webhook("t2", "p2"), *stored("t2")),
        *(request("p3", MISSING), accepted("p3", "t3"), failed("t3", "p3", "source_not_found")),
        *(request("p4", POISON), accepted("p4", "t4"), PoisonBegan(child="processor-1")),
        DeadLetter(key="t4", code="worker_died"),
        StateReported(task_uuid="t4", status="failed"),
        StateReported(task_uuid="t2", status="success"),
        failed("t4", "p4", "worker_died"),
        *(request("p5"), unanswered("p5"), webhook("t5", "p5"), *stored("t5")),
        ObjectFound(key="outcomes/t2.json", sha256="cc", bytes=10),
        *(StepLogged(service="processor-1", task_uuid=task, step="separated") for task in ("t2", "t5")),
    ]


def only_problem(entries: Sequence[Entry]) -> str:
    found = problems(entries)
    assert len(found) == 1, found
    return found[0]


def changed(kind: type[Entry], task: str, **changes: Any) -> list[Entry]:
    """Return the valid run with changed entries for one task."""
    return [
        replace(entry, **changes) if isinstance(entry, kind) and task in str(entry) else entry for entry in valid_run()
    ]


def without(kind: type[Entry], task: str) -> list[Entry]:
    return [entry for entry in valid_run() if not (isinstance(entry, kind) and task in str(entry))]


def test_valid_run_has_no_problems() -> None:
    assert problems(valid_run()) == []


def test_figures_of_a_valid_run() -> None:
    counted = figures([*valid_run(), webhook("t2", "p2"), webhook("t2", "p2", response=503)])
    assert (counted.posts, counted.accepted, counted.notified, counted.lost) == (5, 3, 3, 0)
    assert (counted.refused, counted.unanswered) == (1, 1)
    assert (counted.unknown_accepted, counted.accepted_after_refusal) == (1, 0)
    assert (counted.webhooks_repeated, counted.separations_repeated, counted.contradictions) == (1, 0, 0)
    assert (counted.quarantined, counted.poison_begun) == (1, 1)


def test_repeated_separation_is_counted() -> None:
    again = StepLogged(service="processor-2", task_uuid="t2", step="separated")
    assert figures([*valid_run(), again]).separations_repeated == 1


def test_job_in_a_destroyed_log_may_be_lost_unless_a_member_has_begun_it() -> None:
    run = [*without(WebhookReceived, "t3"), ObjectFound(key="handoff/t3/vocals-aa.wav", sha256="aa", bytes=1)]
    assert [problem[:14] for problem in problems([*run, LogDestroyed(number=1, expendable=["t2"], held=["t3"])])] == [
        "lost: t3 (miss",
        "left in the ha",
    ]
    spared = [*run, LogDestroyed(number=1, expendable=["t2", "t3"], held=[])]
    assert problems(spared) == []
    counted = figures(spared)
    assert (counted.lost, counted.expendable, counted.lost_with_log) == (0, 2, 1)


def test_job_without_a_webhook_is_lost() -> None:
    entries = without(WebhookReceived, "t3")
    assert only_problem(entries).startswith("lost: t3")
    assert figures(entries).lost == 1


def test_rejected_webhook_does_not_count() -> None:
    assert only_problem(changed(WebhookReceived, "t3", status=503)).startswith("lost: t3")


def test_webhook_for_a_job_that_was_never_requested() -> None:
    assert only_problem([*valid_run(), failed("t9", "p9", "source_not_found")]).startswith("webhook for t9")


def test_webhook_with_another_task_than_the_response() -> None:
    entries = [*valid_run(), failed("t9", "p3", "source_not_found")]
    assert only_problem(entries) == "webhook for t9, but the client received 202 for t3"


def test_job_after_a_503_is_counted_separately() -> None:
    entries = [*valid_run(), webhook("t1", "p1"), *stored("t1")]
    assert problems(entries) == []
    assert figures(entries).accepted_after_refusal == 1


def test_two_bodies_under_one_id() -> None:
    entries = [*valid_run(), webhook("t2", "p2", timestamp=7)]
    assert only_problem(entries) == "msg_t2 has 2 different bodies: timestamp"
    assert figures(entries).contradictions == 1


def test_two_outcomes() -> None:
    found = problems([*valid_run(), failed("t2", "p2", "internal")])
    assert any("t2 has 2 outcomes: failed, success" in problem for problem in found)


def test_event_that_contradicts_the_webhook() -> None:
    entries = [*valid_run(), StateReported(task_uuid="t2", status="failed")]
    assert only_problem(entries) == "t2 has 2 outcomes: failed, success"


def test_dead_letter_that_is_not_poison() -> None:
    entries = [*valid_run(), DeadLetter(key="t2", code="webhook_failed")]
    assert only_problem(entries) == "a dead letter that is not poison: t2, webhook_failed"


def test_two_webhook_ids() -> None:
    again = replace(webhook("t2", "p2"), webhook_id="msg_other")
    assert only_problem([*valid_run(), again]) == "t2 has 2 webhook ids: msg_other, msg_t2"


def test_rejected_webhook_with_a_different_body() -> None:
    """The receiver may have kept the body of a webhook that it rejected."""
    assert "different bodies" in only_problem([*valid_run(), webhook("t2", "p2", response=503, timings={})])


def test_failed_job_of_a_valid_song() -> None:
    entries = [*without(WebhookReceived, "t5"), failed("t5", "p5", "worker_died")]
    entries = [entry for entry in entries if not (isinstance(entry, ObjectFound) and entry.key.startswith("t5"))]
    assert only_problem(entries) == "t5 (one): it should have been separated, but failed: it failed"


def test_successful_job_of_a_missing_song() -> None:
    entries = [*without(WebhookReceived, "t3"), webhook("t3", "p3"), *stored("t3")]
    assert only_problem(entries) == "t3 (missing): it should have failed, but its status is success"


def test_failure_with_the_wrong_code() -> None:
    entries = [*without(WebhookReceived, "t3"), failed("t3", "p3", "internal")]
    assert "not with internal" in only_problem(entries)


def test_stems_that_differ_from_the_reference() -> None:
    entries = [Reference(song="one", stems={**STEMS, "vocals": ("zz", 100)}), *valid_run()[1:]]
    assert all("its stems are not those of the reference" in problem for problem in problems(entries))
    assert len(problems(entries)) == 2


@pytest.mark.parametrize("change", [{"sha256": "zz"}, {"bytes": 1}])
def test_object_that_differs_from_the_webhook(change: dict[str, Any]) -> None:
    assert "differs from the webhook" in only_problem(changed(ObjectFound, "t2_vocals", **change))


def test_missing_object() -> None:
    assert "differs from the webhook: None" in only_problem(without(ObjectFound, "t2_vocals"))


def test_link_to_another_object() -> None:
    stems = json.loads(webhook("t2", "p2").body)["stems"]
    stems[0]["url"] = stems[1]["url"]
    entries = [*without(WebhookReceived, "t2"), webhook("t2", "p2", stems=stems)]
    assert only_problem(entries) == "t2 (one): the link to vocals points to t2_instrumental.wav"


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("handoff/t2/vocals-aa.wav", "left in the hand-off: handoff/t2/vocals-aa.wav"),
        ("t3_vocals.wav", "an object of no job: t3_vocals.wav"),
    ],
)
def test_unexpected_object(key: str, problem: str) -> None:
    assert only_problem([*valid_run(), ObjectFound(key=key, sha256="aa", bytes=100)]) == problem


def test_unsigned_webhook() -> None:
    assert "has no valid signature" in only_problem(changed(WebhookReceived, "t3", signed=False))


def test_503_without_retry_after() -> None:
    assert only_problem(changed(ResponseReceived, "p1", retry_after=False)) == "a 503 without Retry-After (p1)"


def test_unexpected_response() -> None:
    assert only_problem(changed(ResponseReceived, "p1", status=500, why="oh")) == "the API responded 500: oh"


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (Leftover(what="a file"), "left behind: a file"),
        (RunFailed(what="a broker is gone"), "a broker is gone"),
        (
            Lag(group="g", topic="uvr_tasks", partition=1, behind=2, messages=5),
            "g is 2 messages behind in uvr_tasks/1",
        ),
        (
            Lag(group="g", topic="uvr_tasks", partition=1, behind=None, messages=5),
            "g has committed nothing of the 5 messages in uvr_tasks/1",
        ),
    ],
)
def test_leftovers(entry: Entry, problem: str) -> None:
    assert only_problem([*valid_run(), entry]) == problem
