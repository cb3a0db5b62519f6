"""Whether the promise was kept: the entries of a ledger held against each other.

What is a problem, and makes the run fail:

* a job with a 202 whose webhook was never told (2xx) its outcome: a loss;
* a webhook about a job that nobody has asked for, or that was refused for good;
* a task with two different outcomes, told or reported, two webhook ids, or two bodies under one id;
* an outcome that is not the one that the song must have: the stems of the reference run, bit for bit and as they lie in
  the store, ``failed`` for a source that is not there and for poison;
* a dead letter that is no poison, a webhook that is not signed, a 503 that does not say when to come again;
* what the run itself could not do: a server that did not come up again, jobs that did not end;
* anything left behind: working files, objects of the hand-off or of no job, unsettled messages, processes.

What is none, and is counted: webhooks told and songs separated more than once, and jobs that came to be although the
client did not learn of it. Where the answer was lost, the client cannot know. Where it was 503, the broker had taken
the message without being able to say so before the API had to answer: the one case in which a 503 is wrong.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from tests.chaos.books import ACCEPTED, SEPARATED, Books, body_of
from tests.chaos.ledger import DeadLetter, Entry, Failed, Lag, Leftover, PoisonTaken, Progressed, Reported, Told
from tests.chaos.schedule import MISSING, POISON, SONGS

_UNAVAILABLE = HTTPStatus.SERVICE_UNAVAILABLE.value
#: Where stems lie on their way, and where outcomes are kept.
_HANDOFF, _OUTCOMES = "handoff/", "outcomes/"
#: The failures that are meant to be, by song: the codes that may be told.
_FAILURES = {MISSING: {"source_not_found"}, POISON: {"worker_died"}}


@dataclass(frozen=True, slots=True)
class Figures:
    """What is counted."""

    posts: int
    """Requests for jobs, with those that had to be repeated"""
    accepted: int
    told: int
    """Of the accepted ones"""
    lost: int
    webhooks_repeated: int
    separations_repeated: int
    contradictions: int
    refused: int
    """503 answers"""
    unanswered: int
    unknown_accepted: int
    """Jobs that came to be, whose answers were lost"""
    accepted_after_refusal: int
    """Jobs that came to be although the answer was 503"""
    quarantined: int
    poison_taken: int


def problems(entries: Sequence[Entry]) -> list[str]:
    """What is wrong, a line each; empty if the promise was kept."""
    books = Books(entries)
    checks = (_failures, _losses, _strangers, _contradictions, _outcomes, _objects, _letters, _manners, _left)
    return [problem for check in checks for problem in check(books)]


def figures(entries: Sequence[Entry]) -> Figures:
    """The run in numbers."""
    books = Books(entries)
    answers = Counter(entry.status for entry in books.answered.values())
    separated = Counter(step.task_uuid for step in books.of(Progressed) if step.step == SEPARATED)
    taken = sum(told.answered // 100 == 2 for told in books.of(Told))
    origins = [answer.status if answer else 0 for answer in books.unknown.values()]
    return Figures(
        posts=len(books.asked),
        accepted=len(books.accepted),
        told=len(books.delivered.keys() & books.accepted.keys()),
        lost=len(list(_losses(books))),
        webhooks_repeated=taken - len(books.delivered),
        separations_repeated=sum(separated.values()) - len(separated),
        contradictions=len(list(_contradictions(books))),
        refused=answers[_UNAVAILABLE],
        unanswered=answers[None],
        unknown_accepted=origins.count(None),
        accepted_after_refusal=origins.count(_UNAVAILABLE),
        quarantined=len({letter.key for letter in books.of(DeadLetter)}),
        poison_taken=len(list(books.of(PoisonTaken))),
    )


def _failures(books: Books) -> Iterator[str]:
    for failed in books.of(Failed):
        yield failed.what


def _losses(books: Books) -> Iterator[str]:
    for task, post in books.accepted.items():
        if task not in books.delivered:
            yield f"lost: {task} ({books.asked[post].song}) has a 202, and its webhook was never told"


def _strangers(books: Books) -> Iterator[str]:
    for task, answer in books.unknown.items():
        if answer is None:
            yield f"told of {task}, for which nobody has asked"
        elif answer.status not in (None, _UNAVAILABLE):
            yield f"told of {task}, but the client got {answer.status} for {answer.task_uuid}"


def _contradictions(books: Books) -> Iterator[str]:
    bodies: dict[str, set[str]] = defaultdict(set)
    for entry in books.of(Told):
        bodies[entry.webhook_id].add(entry.body)
    for webhook_id, different in bodies.items():
        if len(different) > 1:
            yield f"{webhook_id} has {len(different)} different bodies: {_difference(different)}"
    reported: dict[str, set[str]] = defaultdict(set)
    for event in books.of(Reported):
        reported[event.task_uuid].add(event.status)
    for task, told in books.told.items():
        for name, values in (
            ("outcomes", {body_of(each).get("status") for each in told} | reported[task]),
            ("webhook ids", {each.webhook_id for each in told}),
        ):
            if len(values) > 1:
                yield f"{task} has {len(values)} {name}: {', '.join(map(str, sorted(values, key=str)))}"


def _difference(bodies: Iterable[str]) -> str:
    """The fields in which they differ."""
    parsed = [json.loads(body) for body in bodies]
    names = sorted({name for body in parsed for name in body})
    return ", ".join(name for name in names if len({json.dumps(body.get(name)) for body in parsed}) > 1)


def _outcomes(books: Books) -> Iterator[str]:
    for task, told in books.told.items():
        song = books.song_of(told[0])
        if song is None:
            continue  # a stranger, which is a problem already
        complaint = _complaint(books, task, song, body_of(told[0]))
        if complaint:
            yield f"{task} ({song}): {complaint}"


def _complaint(books: Books, task: str, song: str, body: dict[str, Any]) -> str | None:
    if song in SONGS:
        if body["status"] != "success":
            return f"it should have been separated, and was told: {body.get('error_message')}"
        return _wrong_stems(books, task, song, body)
    if body["status"] != "failed":
        return f"it should have failed, and its status is {body['status']}"
    code = body["error"]["code"]
    return None if code in _FAILURES[song] else f"it should have failed with {_FAILURES[song]}, not with {code}"


def _wrong_stems(books: Books, task: str, song: str, body: dict[str, Any]) -> str | None:
    told = {stem["name"]: (stem["sha256"], stem["bytes"]) for stem in body["stems"]}
    if told != books.references.get(song):
        return f"its stems are not those of the reference: {told}"
    for stem in body["stems"]:
        key = urlsplit(stem["url"]).path.rpartition("/")[2]
        if key != _key(task, stem):
            return f"the link to {stem['name']} leads to {key}"
        if books.stored.get(key) != (stem["sha256"], stem["bytes"]):
            return f"{key} in the store is not what was told: {books.stored.get(key)}"
    return None


def _objects(books: Books) -> Iterator[str]:
    finished = {_key(task, stem) for task, told in books.told.items() for stem in body_of(told[0]).get("stems") or ()}
    for key in books.stored:
        if key.startswith(_HANDOFF):
            yield f"left in the hand-off: {key}"
        elif key not in finished and not key.startswith(_OUTCOMES):
            yield f"an object of no job: {key}"


def _letters(books: Books) -> Iterator[str]:
    poison = {task for task, told in books.told.items() if books.song_of(told[0]) == POISON}
    for letter in books.of(DeadLetter):
        if letter.key not in poison:
            yield f"a dead letter that is no poison: {letter.key}, {letter.code}"


def _manners(books: Books) -> Iterator[str]:
    for told in books.of(Told):
        if not told.signed:
            yield f"a webhook about {told.task_uuid} is not signed as it should be"
    for answer in books.answered.values():
        if answer.status == _UNAVAILABLE and not answer.retry_after:
            yield f"a 503 without Retry-After ({answer.post})"
        elif answer.status not in (None, ACCEPTED, _UNAVAILABLE):
            yield f"the API answered {answer.status}: {answer.why}"


def _left(books: Books) -> Iterator[str]:
    for leftover in books.of(Leftover):
        yield f"left behind: {leftover.what}"
    for lag in books.of(Lag):
        if lag.behind is None:
            yield f"{lag.group} has settled nothing of the {lag.messages} messages in {lag.topic}/{lag.partition}"
        elif lag.behind:
            yield f"{lag.group} is {lag.behind} messages behind in {lag.topic}/{lag.partition}"


def _key(task: str, stem: dict[str, Any]) -> str:
    return f"{task}_{stem['name']}.{stem['format']}"
