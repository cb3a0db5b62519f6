"""The dead letters' desk on every engine: what an operator sees, and what the services get from it."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.consuming.retry_headers import dead_letter
from pipeline.dead_letters.__main__ import parse
from pipeline.dead_letters.commands import DeadLetterCommands
from pipeline.errors import (
    ErrorCode,
    InfrastructureError,
    PermanentError,
    PipelineError,
    PoisonError,
    TransientError,
)
from pipeline.messages import SeparationResult, SeparationTask, to_message
from pipeline.topics import RetryTopic, Topics
from pipeline.transport.protocol import Message, StoredMessage, Topic, Transport
from tests.conformance.transport import backends
from tests.conformance.transport.backends import Backend

PATIENCE = 30.0

POISON = PoisonError("the job ended its worker too often", code=ErrorCode.WORKER_DIED)
UNHEARD = TransientError("the webhook answered 503", code=ErrorCode.WEBHOOK_FAILED)
GONE = PermanentError("the webhook's receiver is gone", code=ErrorCode.WEBHOOK_GONE)
UNPARSABLE = PermanentError("the message is not a valid SeparationTask: body", code=ErrorCode.MESSAGE_INVALID)


#: Tests without it run on the embedded engine alone: what they are about is the same on every engine.
on_every_engine = pytest.mark.parametrize(
    "backend", ["embedded", pytest.param("kafka", marks=backends.NEEDS_KAFKA)], indirect=True
)


@pytest.fixture
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    if getattr(request, "param", "embedded") == "embedded":
        with backends.embedded(tmp_path) as opened:
            yield opened
        return
    broker = request.getfixturevalue("kafka_broker")
    with backends.kafka(broker.bootstrap_servers, partitions=3) as opened:
        yield opened


@dataclass(frozen=True)
class Said:
    """What a command ended with."""

    status: int
    out: str
    err: str


@dataclass
class Office:
    """A broker with dead letters, and an operator."""

    transport: Transport
    topics: Topics
    capsys: pytest.CaptureFixture[str]

    def fail(self, message: Message, error: PipelineError) -> str:
        """Make a dead letter of ``message`` as the consumer loop does; gives its id."""
        before = set(self.ids())
        self.transport.publish(dead_letter(self.topics.dead_letters, message, error))
        (added,) = set(self.ids()) - before
        return added

    def ids(self) -> list[str]:
        return [f"{stored.partition}/{stored.offset}" for stored in self.stored(self.topics.dead_letters)]

    def stored(self, topic: str) -> list[StoredMessage]:
        return list(self.transport.browse(topic))

    def messages(self, topic: str) -> list[Message]:
        return [stored.message for stored in self.stored(topic)]

    def say(self, *command_line: str, transport: Transport | None = None) -> Said:
        """Run a command as an operator types it."""
        arguments = parse(command_line)
        self.capsys.readouterr()
        status = arguments.run(
            DeadLetterCommands(transport or self.transport, self.topics, "the test's broker"), arguments
        )
        out, err = self.capsys.readouterr()
        return Said(status, out, err)

    def listed(self, *filters: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.say("list", "--json", *filters).out.splitlines()]

    def listed_ids(self, *filters: str) -> list[str]:
        return [letter["id"] for letter in self.listed(*filters)]


@pytest.fixture
def office(backend: Backend, capsys: pytest.CaptureFixture[str]) -> Office:
    name = f"topic-{uuid.uuid4().hex[:12]}"
    topics = Topics(
        tasks={3: f"{name}-tasks", 5: f"{name}-urgent"},
        bulk=f"{name}-bulk",
        results=f"{name}-results",
        events=f"{name}-events",
        retries=(RetryTopic(f"{name}-retry", 10.0),),
        pulse="pulse",
        dead_letters=f"{name}-dead",
        retention=3600.0,
    )
    transport = backend.open()
    transport.ensure_topics([Topic(name, None) for name in (*topics.jobs, topics.results, topics.dead_letters)])
    return Office(transport, topics, capsys)


def task(**fields: Any) -> SeparationTask:
    return SeparationTask(
        task_uuid=fields.pop("task_uuid", uuid.uuid4()),
        audio="https://example.org/a song.mp3?token=sesame",
        hook_url="https://example.org/hooks/sesame",
        **fields,
    )


def result(of: SeparationTask) -> SeparationResult:
    return SeparationResult(task_uuid=of.task_uuid, task=of, status="success", model="m", finished_at=1.5)


class TestSeeing:
    def test_a_letter_is_listed_with_its_reason(self, office: Office) -> None:
        failed = task()
        letter = office.fail(to_message(office.topics.tasks[3], failed), POISON)

        said = office.say("list")

        head, row = said.out.splitlines()
        assert said.status == 0
        assert head.split()[0] == "ID"
        for fact in (letter, str(failed.task_uuid), office.topics.tasks[3], "poison", "worker_died", POISON.message):
            assert fact in row

    @on_every_engine
    def test_the_same_for_programs(self, office: Office) -> None:
        failed = task()
        letter = office.fail(to_message(office.topics.tasks[3], failed), POISON)

        (listed,) = office.listed()

        assert listed["id"] == letter
        assert listed["task"] == str(failed.task_uuid)
        assert (listed["kind"], listed["code"], listed["why"]) == ("poison", "worker_died", POISON.message)
        assert listed["resolution"] is None

    @on_every_engine
    def test_nothing_there_is_said_with_the_place_that_was_looked_at(self, office: Office) -> None:
        said = office.say("list")

        assert (said.status, said.out) == (0, "")
        assert office.topics.dead_letters in said.err
        assert "the test's broker" in said.err

    def test_a_letter_is_shown_without_the_secrets_of_its_urls(self, office: Office) -> None:
        failed = task(metadata={"note": "see http://user:sesame@example.com/x?sesame for more", "year": 1969})
        sent = to_message(office.topics.tasks[3], failed)
        came_from = {"referer": b"https://example.org/private/sesame"}
        letter = office.fail(Message(sent.topic, sent.key, sent.value, came_from), POISON)

        shown, raw = office.say("show", letter), office.say("show", letter, "--raw")

        assert shown.status == raw.status == 0
        assert '"audio": "https://example.org/a song.mp3"' in shown.out
        assert '"hook_url": "https://example.org"' in shown.out
        assert "see http://example.com/x for more" in shown.out
        assert '"year": 1969' in shown.out
        assert "sesame" not in shown.out
        assert raw.out.count("sesame") == 5
        assert POISON.message in shown.out

    def test_bytes_that_are_not_json_are_shown_without_harm(self, office: Office) -> None:
        nasty = b'\x1b[2J\xff\x00{"audio": "https://example.org/a?sesame"'
        letter = office.fail(Message(office.topics.tasks[3], "\x1b[31mkey", nasty, {"h": b"\x1b\xff"}), UNPARSABLE)

        shown, raw, listed = office.say("show", letter), office.say("show", letter, "--raw"), office.say("list")

        assert "1b 5b 32 4a ff 00 7b" in shown.out
        assert "sesame" not in shown.out.replace("\n", "")
        assert b"sesame".hex(" ") in raw.out.replace("\n", "")
        assert "\x1b" not in shown.out + raw.out + listed.out
        assert r"\x1b[31mkey" in listed.out

    @on_every_engine
    def test_a_thousand_letters_are_listed_in_their_order(self, office: Office) -> None:
        jobs = [to_message(office.topics.tasks[3], task()) for _ in range(1000)]
        for start in range(0, 1000, 250):
            office.transport.publish(
                *(dead_letter(office.topics.dead_letters, job, POISON) for job in jobs[start : start + 250])
            )

        listed = office.listed()

        assert sorted(letter["task"] for letter in listed) == sorted(job.key for job in jobs)
        times = [letter["failed_at"] for letter in listed]
        assert times[0] < times[-1]
        assert office.listed_ids("--limit", "3") == [letter["id"] for letter in listed[:3]]


class TestReplay:
    @on_every_engine
    @pytest.mark.parametrize("error", [UNHEARD, GONE], ids=lambda error: str(error.kind))
    def test_a_result_that_nobody_took_goes_out_as_it_was(self, office: Office, error: PipelineError) -> None:
        whole = to_message(office.topics.results, result(task()))
        sent = Message(whole.topic, whole.key, whole.value, {"traceparent": b"00-a-b-01"})
        letter = office.fail(sent, error)

        said = office.say("replay", letter)

        (replayed,) = office.messages(office.topics.results)
        assert (replayed.key, replayed.value) == (sent.key, sent.value)
        assert replayed.headers == {"traceparent": b"00-a-b-01", "replayed-from": letter.encode()}
        assert said.status == 0
        assert letter in said.out
        assert office.listed() == []

    def test_its_trials_are_forgotten(self, office: Office) -> None:
        trials = {"attempts": b"4", "first-failed-at": b"1.5", "last-error": b"x", "not-before": b"9999999999999"}
        original = {"original-topic": office.topics.results.encode()}
        whole = to_message(office.topics.retry_names[0], result(task()))
        letter = Message(office.topics.dead_letters, whole.key, whole.value, {**trials, **original})
        office.transport.publish(letter)

        office.say("replay", *office.ids())

        (replayed,) = office.messages(office.topics.results)
        assert set(replayed.headers) == {"replayed-from"}

    @on_every_engine
    @pytest.mark.parametrize("value", [bytes(range(256)) + b'{"a": ', b'{ "task_uuid": 1 }'], ids=["bytes", "json"])
    def test_unparsable_bytes_come_back_bit_for_bit(self, office: Office, value: bytes) -> None:
        letter = office.fail(Message(office.topics.tasks[5], "k", value, {"h": b"\xff\x00"}), UNPARSABLE)

        office.say("replay", letter)

        (replayed,) = office.messages(office.topics.tasks[5])
        assert (replayed.key, replayed.value, replayed.headers["h"]) == ("k", value, b"\xff\x00")

    @on_every_engine
    def test_a_quarantined_job_becomes_a_run_of_its_own(self, office: Office) -> None:
        failed = task(metadata={"größe": [1.0, None, "\x00"]}, priority=5)
        body = {**json.loads(failed.model_dump_json()), "field_of_a_newer_version": {"a": 1}}
        letter = office.fail(Message(office.topics.tasks[5], str(failed.task_uuid), json.dumps(body).encode()), POISON)

        said = office.say("replay", letter)

        (replayed,) = office.messages(office.topics.tasks[5])
        run = f"r{letter.replace('/', '-')}"
        assert json.loads(replayed.value) == {**body, "run": run}
        assert SeparationTask.model_validate_json(replayed.value) == failed.model_copy(update={"run": run})
        assert run in said.out

    def test_so_does_a_result_that_took_its_uploader_down(self, office: Office) -> None:
        failed = result(task(run="r9-9"))
        letter = office.fail(to_message(office.topics.results, failed), POISON)

        office.say("replay", letter)

        (replayed,) = office.messages(office.topics.results)
        expected = failed.task.model_copy(update={"run": f"r{letter.replace('/', '-')}"})
        assert SeparationResult.model_validate_json(replayed.value) == failed.model_copy(update={"task": expected})

    @pytest.mark.parametrize("value", [b"[1, 2]", b'{"task": 5}', b"\xff", b"[" * 100_000], ids=str)
    def test_poison_that_is_no_job_stays_as_it_is(self, office: Office, value: bytes) -> None:
        letter = office.fail(Message(office.topics.results, "k", value), POISON)

        assert office.say("show", letter).status == 0
        office.say("replay", letter)

        assert [message.value for message in office.messages(office.topics.results)] == [value]

    @on_every_engine
    def test_replaying_twice_does_it_once(self, office: Office) -> None:
        letter = office.fail(to_message(office.topics.tasks[3], task()), POISON)
        office.say("replay", letter)

        second = office.say("replay", letter)

        assert second.status == 0
        assert "nothing to do, replayed" in second.out
        assert len(office.messages(office.topics.tasks[3])) == 1

    def test_again_is_a_run_of_its_own_again(self, office: Office) -> None:
        letter = office.fail(to_message(office.topics.tasks[3], task()), POISON)
        office.say("replay", letter)

        office.say("replay", letter, "--again")

        runs = [json.loads(message.value)["run"] for message in office.messages(office.topics.tasks[3])]
        assert runs == [f"r{letter.replace('/', '-')}", f"r{letter.replace('/', '-')}-2"]

    def test_many_are_replayed_in_their_order(self, office: Office) -> None:
        failed = [to_message(office.topics.results, result(task())) for _ in range(230)]
        office.transport.publish(*(dead_letter(office.topics.dead_letters, job, UNHEARD) for job in failed))

        said = office.say("replay", "--error", "webhook_failed", "--yes")

        assert said.out.count(": replayed to ") == 230
        assert [message.key for message in office.messages(office.topics.results)] == [job.key for job in failed]
        assert office.listed() == []

    def test_named_letters_are_done_although_another_one_is_not_there(self, office: Office) -> None:
        letter = office.fail(to_message(office.topics.results, result(task())), UNHEARD)

        said = office.say("replay", "7/99", letter, letter)

        assert said.status == 1
        assert "7/99: no such dead letter" in said.err
        assert len(office.messages(office.topics.results)) == 1


class TestRefusal:
    def test_a_letter_that_was_cut_short_cannot_be_replayed(self, office: Office) -> None:
        whole = dead_letter(office.topics.dead_letters, to_message(office.topics.tasks[3], task()), POISON)
        cut = Message(whole.topic, whole.key, whole.value[:100], {**whole.headers, "original-bytes": b"2000000"})
        office.transport.publish(cut)
        (letter,) = office.ids()
        other = office.fail(to_message(office.topics.results, result(task())), UNHEARD)

        said = office.say("replay", letter, other)

        assert said.status == 1
        assert f"{letter}: cannot be replayed: only 100 of its 2000000 bytes were kept" in said.err
        assert "cannot be replayed" in office.say("show", letter).out
        assert office.listed_ids() == [letter]
        assert len(office.messages(office.topics.results)) == 1

    def test_one_whose_outcome_was_too_large_is_whole_and_was_told(self, office: Office) -> None:
        whole = dead_letter(office.topics.dead_letters, to_message(office.topics.tasks[3], task()), UNPARSABLE)
        length = f"{len(whole.value)}".encode()
        office.transport.publish(
            Message(whole.topic, whole.key, whole.value, {**whole.headers, "original-bytes": length})
        )
        (letter,) = office.ids()

        assert office.say("replay", letter).status == 0

        (replayed,) = office.messages(office.topics.tasks[3])
        assert json.loads(replayed.value)["run"] == f"r{letter.replace('/', '-')}"

    @pytest.mark.parametrize(
        ("headers", "why"),
        [({"original-topic": b"uvr_elsewhere"}, "nobody reads"), ({}, "does not say which topic")],
        ids=["unknown", "missing"],
    )
    def test_nothing_is_sent_where_nobody_reads(self, office: Office, headers: dict[str, bytes], why: str) -> None:
        office.transport.publish(Message(office.topics.dead_letters, "k", b"{}", headers))
        (letter,) = office.ids()

        said = office.say("replay", letter)

        assert said.status == 1
        assert why in said.err
        assert office.listed_ids() == [letter]
        assert office.messages("uvr_elsewhere") == []


class TestDrop:
    @on_every_engine
    def test_a_dropped_letter_is_listed_no_more_and_can_still_be_seen(self, office: Office) -> None:
        letter = office.fail(to_message(office.topics.results, result(task())), UNHEARD)
        kept = office.fail(to_message(office.topics.results, result(task())), UNHEARD)

        said = office.say("drop", letter)

        assert (said.status, said.out) == (0, f"{letter}: dropped\n")
        assert office.listed_ids() == [kept]
        assert {found["id"]: found["resolution"] for found in office.listed("--all")} == {letter: "dropped", kept: None}
        assert "dropped 20" in office.say("list", "--all").out
        assert "dropped 20" in office.say("show", letter).out
        assert office.messages(office.topics.results) == []

    def test_dropping_twice_does_it_once(self, office: Office) -> None:
        letter = office.fail(to_message(office.topics.results, result(task())), UNHEARD)
        office.say("drop", letter)
        marks = len(office.ids())

        second = office.say("drop", letter)

        assert second.status == 0
        assert "nothing to do, dropped" in second.out
        assert len(office.ids()) == marks

    def test_it_is_replayed_only_when_that_is_asked_for(self, office: Office) -> None:
        letter = office.fail(to_message(office.topics.results, result(task())), UNHEARD)
        office.say("drop", letter)

        office.say("replay", letter)
        assert office.messages(office.topics.results) == []
        office.say("replay", letter, "--again")
        assert len(office.messages(office.topics.results)) == 1

    def test_a_letter_that_is_not_there(self, office: Office) -> None:
        said = office.say("drop", "0/12345")

        assert said.status == 1
        assert "0/12345: no such dead letter" in said.err

    def test_a_mark_is_no_letter(self, office: Office) -> None:
        letter = office.fail(to_message(office.topics.results, result(task())), UNHEARD)
        office.say("drop", letter)
        (mark,) = set(office.ids()) - {letter}

        for command in ("show", "drop", "replay"):
            assert office.say(command, mark).status == 1


class TestSureness:
    @pytest.mark.parametrize("verb", ["replay", "drop"])
    @on_every_engine
    def test_filters_show_what_they_would_do_and_do_it_when_told_so(self, office: Office, verb: str) -> None:
        meant = office.fail(to_message(office.topics.results, result(task())), UNHEARD)
        other = office.fail(to_message(office.topics.results, result(task())), UNPARSABLE)
        done = office.fail(to_message(office.topics.results, result(task())), UNHEARD)
        office.say("drop", done)

        shown = office.say(verb, "--error", "webhook_failed")
        assert shown.status == 0
        assert meant in shown.out
        assert other not in shown.out
        assert done not in shown.out
        assert f"would {verb} 1; nothing was done" in shown.out
        assert office.listed_ids() == [meant, other]

        assert office.say(verb, "--error", "webhook_failed", "--yes").status == 0
        assert office.listed_ids() == [other]

    @pytest.mark.parametrize("verb", ["replay", "drop"])
    def test_filters_that_match_nothing(self, office: Office, verb: str) -> None:
        said = office.say(verb, "--kind", "poison", "--yes")

        assert said.status == 0
        assert "no such dead letters" in said.err


class Tampered:
    """A transport of which one call is not what it should be."""

    def __init__(self, transport: Transport, **calls: Callable[..., Any]) -> None:
        self._transport = transport
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        return self._calls.get(name) or getattr(self._transport, name)


class TestIdempotence:
    """Whatever goes wrong, what was published more than once is the same to the byte."""

    @staticmethod
    def assert_all_alike(office: Office, topic: str, times: int) -> None:
        messages = office.messages(topic)
        assert len(messages) == times
        assert all(message == messages[0] for message in messages)
        assert office.listed() == []

    @on_every_engine
    def test_the_power_goes_between_the_message_and_its_mark(self, office: Office) -> None:
        letter = office.fail(to_message(office.topics.tasks[3], task()), POISON)

        def publish(*messages: Message) -> None:
            if any("resolves" in message.headers for message in messages):
                raise InfrastructureError("the broker does not answer", code=ErrorCode.BROKER_UNAVAILABLE)
            office.transport.publish(*messages)

        with pytest.raises(InfrastructureError):
            office.say("replay", letter, transport=Tampered(office.transport, publish=publish))
        assert office.listed_ids() == [letter]

        office.say("replay", letter)

        self.assert_all_alike(office, office.topics.tasks[3], times=2)

    def test_the_power_goes_before_the_message(self, office: Office) -> None:
        letter = office.fail(to_message(office.topics.tasks[3], task()), POISON)

        def publish(*_messages: Message) -> None:
            raise InfrastructureError("the broker does not answer", code=ErrorCode.BROKER_UNAVAILABLE)

        with pytest.raises(InfrastructureError):
            office.say("replay", letter, transport=Tampered(office.transport, publish=publish))

        assert office.messages(office.topics.tasks[3]) == []
        assert office.listed_ids() == [letter]

    @on_every_engine
    def test_two_operators_at_once(self, office: Office, backend: Backend) -> None:
        letter = office.fail(to_message(office.topics.tasks[3], task()), POISON)
        both_have_read = threading.Barrier(2)
        statuses: list[int] = []

        def operate(transport: Transport) -> None:
            def browse(topic: str) -> Iterator[StoredMessage]:
                seen = list(transport.browse(topic))
                both_have_read.wait(PATIENCE)
                return iter(seen)

            desk = DeadLetterCommands(Tampered(transport, browse=browse), office.topics, "")
            arguments = parse(["replay", letter])
            statuses.append(arguments.run(desk, arguments))

        operators = [threading.Thread(target=operate, args=(backend.open(),)) for _ in range(2)]
        for operator in operators:
            operator.start()
        for operator in operators:
            operator.join(PATIENCE)

        assert statuses == [0, 0]
        self.assert_all_alike(office, office.topics.tasks[3], times=2)


class TestStrangeLetters:
    def test_a_letter_that_looks_like_a_mark_is_a_letter(self, office: Office) -> None:
        first = office.fail(to_message(office.topics.results, result(task())), UNHEARD)
        like_a_mark = {"resolves": first.encode(), "resolution": b"dropped", "resolved-at": b"1"}
        second = office.fail(Message(office.topics.results, "k", b"x", like_a_mark), UNPARSABLE)

        assert office.listed_ids() == [first, second]

    @pytest.mark.parametrize("failed_at", [b"nan", b"inf", b"-1", b"1e300", b"\xff", b""])
    def test_a_time_that_cannot_be_read_is_the_time_of_writing(self, office: Office, failed_at: bytes) -> None:
        letter = dead_letter(office.topics.dead_letters, to_message(office.topics.results, result(task())), UNHEARD)
        office.transport.publish(
            Message(letter.topic, letter.key, letter.value, {**letter.headers, "failed-at": failed_at})
        )

        (stored,) = office.stored(office.topics.dead_letters)
        (listed,) = office.listed("--newer-than", "1h")
        assert listed["failed_at"] == stored.published_at
        assert office.say("list").status == 0

    @pytest.mark.parametrize("resolves", [b"here", b"0/x", b"1", b"\xff/1", "١/٢".encode()])
    def test_a_mark_of_nothing_is_shown(self, office: Office, resolves: bytes) -> None:
        office.transport.publish(
            Message(office.topics.dead_letters, "k", b"", {"resolves": resolves, "resolution": b"dropped"})
        )

        assert office.listed_ids() == office.ids()
