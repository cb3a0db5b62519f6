"""Audit of a run: checks that the entries of its ledger are consistent and that no job was lost.

Problems, which make the run fail:

* a loss: a job with a 202 for which no webhook was delivered (2xx), unless its message was in a log that was destroyed
  before a member had begun it;
* a webhook for a job that was never requested, or that was rejected permanently;
* a task with two different outcomes (webhook or event), two webhook ids, or two bodies under one id;
* an outcome that is not the expected one: the stems of the reference run, bit for bit and as stored, or ``failed`` for
  a missing source and for poison;
* a dead letter that is not poison, an unsigned webhook, a 503 without Retry-After;
* a failure of the run itself: a server that did not restart, jobs that did not finish;
* leftovers: working files, objects of the hand-off or of no job (except those of jobs lost with a log), unsettled
  messages, processes.

Counted, but not problems: repeated webhooks and separations, and jobs that were created although the client received
no 202. If the response was lost, the client cannot detect this. If it was 503, the broker had stored the message but
could not confirm it before the API had to respond: the only case in which a 503 is wrong.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from tests.chaos.audit.ledger import (
    DeadLetter,
    Entry,
    Lag,
    Leftover,
    PoisonBegan,
    RunFailed,
    StateReported,
    StepLogged,
    WebhookReceived,
)
from tests.chaos.audit.ledger_index import ACCEPTED, SEPARATED, LedgerIndex, body_of
from tests.chaos.schedule import MISSING, POISON, SONGS

_UNAVAILABLE = HTTPStatus.SERVICE_UNAVAILABLE.value
#: Key prefixes of stems in transit and of outcomes.
_HANDOFF, _OUTCOMES = "handoff/", "outcomes/"
#: Expected failures: the allowed error codes by song.
_FAILURES = {MISSING: {"source_not_found"}, POISON: {"worker_died"}}


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a run."""

    posts: int
    """Requests for jobs, including repeated ones"""
    accepted: int
    notified: int
    """Accepted jobs with a delivered webhook"""
    lost: int
    expendable: int
    """Accepted jobs that may be lost with a destroyed log"""
    lost_with_log: int
    webhooks_repeated: int
    separations_repeated: int
    contradictions: int
    refused: int
    """503 responses"""
    unanswered: int
    unknown_accepted: int
    """Jobs that were created although the response was lost"""
    accepted_after_refusal: int
    """Jobs that were created although the response was 503"""
    quarantined: int
    poison_begun: int


def problems(entries: Sequence[Entry]) -> list[str]:
    """Return the problems, one line each; empty if all checks pass."""
    index = LedgerIndex(entries)
    checks = (
        _run_failures,
        _lost_jobs,
        _unexpected_jobs,
        _contradictions,
        _outcomes,
        _objects,
        _dead_letters,
        _responses,
        _leftovers,
    )
    return [problem for check in checks for problem in check(index)]


def figures(entries: Sequence[Entry]) -> Figures:
    """Return the figures of the run."""
    index = LedgerIndex(entries)
    answers = Counter(entry.status for entry in index.responses.values())
    separated = Counter(step.task_uuid for step in index.of(StepLogged) if step.step == SEPARATED)
    delivered = sum(webhook.status // 100 == 2 for webhook in index.of(WebhookReceived))
    origins = [answer.status if answer else 0 for answer in index.unexpected.values()]
    return Figures(
        posts=len(index.requests),
        accepted=len(index.accepted),
        notified=len(index.delivered.keys() & index.accepted.keys()),
        lost=len(list(_lost_jobs(index))),
        expendable=len(index.expendable & index.accepted.keys()),
        lost_with_log=len(index.lost & index.expendable),
        webhooks_repeated=delivered - len(index.delivered),
        separations_repeated=sum(separated.values()) - len(separated),
        contradictions=len(list(_contradictions(index))),
        refused=answers[_UNAVAILABLE],
        unanswered=answers[None],
        unknown_accepted=origins.count(None),
        accepted_after_refusal=origins.count(_UNAVAILABLE),
        quarantined=len({letter.key for letter in index.of(DeadLetter)}),
        poison_begun=len(list(index.of(PoisonBegan))),
    )


def _run_failures(index: LedgerIndex) -> Iterator[str]:
    for failed in index.of(RunFailed):
        yield failed.what


def _lost_jobs(index: LedgerIndex) -> Iterator[str]:
    for task, post in index.accepted.items():
        if task in index.lost - index.expendable:
            yield f"lost: {task} ({index.requests[post].song}) has a 202, and no webhook was delivered"


def _unexpected_jobs(index: LedgerIndex) -> Iterator[str]:
    for task, answer in index.unexpected.items():
        if answer is None:
            yield f"webhook for {task}, which was never requested"
        elif answer.status not in (None, _UNAVAILABLE):
            yield f"webhook for {task}, but the client received {answer.status} for {answer.task_uuid}"


def _contradictions(index: LedgerIndex) -> Iterator[str]:
    bodies: dict[str, set[str]] = defaultdict(set)
    for entry in index.of(WebhookReceived):
        bodies[entry.webhook_id].add(entry.body)
    for webhook_id, different in bodies.items():
        if len(different) > 1:
            yield f"{webhook_id} has {len(different)} different bodies: {_difference(different)}"
    reported: dict[str, set[str]] = defaultdict(set)
    for event in index.of(StateReported):
        reported[event.task_uuid].add(event.status)
    for task, webhooks in index.webhooks.items():
        for name, values in (
            ("outcomes", {body_of(each).get("status") for each in webhooks} | reported[task]),
            ("webhook ids", {each.webhook_id for each in webhooks}),
        ):
            if len(values) > 1:
                yield f"{task} has {len(values)} {name}: {', '.join(map(str, sorted(values, key=str)))}"


def _difference(bodies: Iterable[str]) -> str:
    """Return the names of the fields in which the bodies differ."""
    parsed = [json.loads(body) for body in bodies]
    names = sorted({name for body in parsed for name in body})
    return ", ".join(name for name in names if len({json.dumps(body.get(name)) for body in parsed}) > 1)


def _outcomes(index: LedgerIndex) -> Iterator[str]:
    for task, webhooks in index.webhooks.items():
        song = index.song_of(webhooks[0])
        if song is None:
            continue  # an unexpected job, which is reported already
        problem_found = _outcome_problem(index, task, song, body_of(webhooks[0]))
        if problem_found:
            yield f"{task} ({song}): {problem_found}"


def _outcome_problem(index: LedgerIndex, task: str, song: str, body: dict[str, Any]) -> str | None:
    if song in SONGS:
        if body["status"] != "success":
            return f"it should have been separated, but failed: {body.get('error_message')}"
        return _wrong_stems(index, task, song, body)
    if body["status"] != "failed":
        return f"it should have failed, but its status is {body['status']}"
    code = body["error"]["code"]
    return None if code in _FAILURES[song] else f"it should have failed with {_FAILURES[song]}, not with {code}"


def _wrong_stems(index: LedgerIndex, task: str, song: str, body: dict[str, Any]) -> str | None:
    stems = {stem["name"]: (stem["sha256"], stem["bytes"]) for stem in body["stems"]}
    if stems != index.references.get(song):
        return f"its stems are not those of the reference: {stems}"
    for stem in body["stems"]:
        key = urlsplit(stem["url"]).path.rpartition("/")[2]
        if key != _key(task, stem):
            return f"the link to {stem['name']} points to {key}"
        if index.objects.get(key) != (stem["sha256"], stem["bytes"]):
            return f"{key} in the store differs from the webhook: {index.objects.get(key)}"
    return None


def _objects(index: LedgerIndex) -> Iterator[str]:
    finished = {
        _key(task, stem)
        for task, webhooks in index.webhooks.items()
        for stem in body_of(webhooks[0]).get("stems") or ()
    }
    lost = index.lost & index.expendable
    for key in index.objects:
        if any(task in key for task in lost):
            continue  # its result was in a destroyed log, so no uploader deletes its stems
        if key.startswith(_HANDOFF):
            yield f"left in the hand-off: {key}"
        elif key not in finished and not key.startswith(_OUTCOMES):
            yield f"an object of no job: {key}"


def _dead_letters(index: LedgerIndex) -> Iterator[str]:
    poison = {task for task, webhooks in index.webhooks.items() if index.song_of(webhooks[0]) == POISON}
    for letter in index.of(DeadLetter):
        if letter.key not in poison:
            yield f"a dead letter that is not poison: {letter.key}, {letter.code}"


def _responses(index: LedgerIndex) -> Iterator[str]:
    for webhook in index.of(WebhookReceived):
        if not webhook.signed:
            yield f"a webhook for {webhook.task_uuid} has no valid signature"
    for answer in index.responses.values():
        if answer.status == _UNAVAILABLE and not answer.retry_after:
            yield f"a 503 without Retry-After ({answer.post})"
        elif answer.status not in (None, ACCEPTED, _UNAVAILABLE):
            yield f"the API responded {answer.status}: {answer.why}"


def _leftovers(index: LedgerIndex) -> Iterator[str]:
    for leftover in index.of(Leftover):
        yield f"left behind: {leftover.what}"
    for lag in index.of(Lag):
        if lag.behind is None:
            yield f"{lag.group} has committed nothing of the {lag.messages} messages in {lag.topic}/{lag.partition}"
        elif lag.behind:
            yield f"{lag.group} is {lag.behind} messages behind in {lag.topic}/{lag.partition}"


def _key(task: str, stem: dict[str, Any]) -> str:
    return f"{task}_{stem['name']}.{stem['format']}"
