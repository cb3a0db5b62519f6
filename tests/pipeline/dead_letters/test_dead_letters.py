"""The operator's commands for dead letters on every engine: their output, and the messages that they publish."""

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
    DeferredError,
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
UNDELIVERED = TransientError("the webhook answered 503", code=ErrorCode.WEBHOOK_FAILED)
GONE = PermanentError("the webhook's receiver is gone", code=ErrorCode.WEBHOOK_GONE)
UNPARSABLE = PermanentError("the message is not a valid SeparationTask: body", code=ErrorCode.MESSAGE_INVALID)
NEWER = DeferredError("the job needs a newer version of this service", code=ErrorCode.MESSAGE_NEWER)


#: Tests without this mark run on the embedded engine alone: their subject does not depend on the engine.
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
class CommandResult:
    """The exit status and the output of one command."""

    status: int
    out: str
    err: str


@dataclass
class Operator:
    """An operator at a broker with dead letters."""

    transport: Transport
    topics: Topics
    capsys: pytest.CaptureFixture[str]

    def fail(self, message: Message, error: PipelineError) -> str:
        """Turn ``message`` into a dead letter as the consumer loop does, and return its id."""
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

    def run(self, *command_line: str, transport: Transport | None = None) -> CommandResult:
        """Run a command as an operator types it."""
        arguments = parse(command_line)
        self.capsys.readouterr()
        status = arguments.run(
            DeadLetterCommands(transport or self.transport, self.topics, "the test's broker"), arguments
        )
        out, err = self.capsys.readouterr()
        return CommandResult(status, out, err)

    def listed(self, *filters: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run("list", "--json", *filters).out.splitlines()]

    def listed_ids(self, *filters: str) -> list[str]:
        return [letter["id"] for letter in self.listed(*filters)]


@pytest.fixture
def operator(backend: Backend, capsys: pytest.CaptureFixture[str]) -> Operator:
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
    return Operator(transport, topics, capsys)


def task(**fields: Any) -> SeparationTask:
    return SeparationTask(
        task_uuid=fields.pop("task_uuid", uuid.uuid4()),
        audio="https://example.org/a song.mp3?token=sesame",
        hook_url="https://example.org/hooks/sesame",
        **fields,
    )


def result(of: SeparationTask) -> SeparationResult:
    return SeparationResult(task_uuid=of.task_uuid, task=of, status="success", model="m", finished_at=1.5)


class TestListAndShow:
    def test_list_shows_the_reason(self, operator: Operator) -> None:
        failed = task()
        letter = operator.fail(to_message(operator.topics.tasks[3], failed), POISON)

        outcome = operator.run("list")

        head, row = outcome.out.splitlines()
        assert outcome.status == 0
        assert head.split()[0] == "ID"
        for fact in (letter, str(failed.task_uuid), operator.topics.tasks[3], "poison", "worker_died", POISON.message):
            assert fact in row

    @on_every_engine
    def test_list_as_json(self, operator: Operator) -> None:
        failed = task()
        letter = operator.fail(to_message(operator.topics.tasks[3], failed), POISON)

        (listed,) = operator.listed()

        assert listed["id"] == letter
        assert listed["task"] == str(failed.task_uuid)
        assert (listed["kind"], listed["code"], listed["why"]) == ("poison", "worker_died", POISON.message)
        assert listed["resolution"] is None

    @on_every_engine
    def test_an_empty_list_names_the_topic_and_the_broker(self, operator: Operator) -> None:
        outcome = operator.run("list")

        assert (outcome.status, outcome.out) == (0, "")
        assert operator.topics.dead_letters in outcome.err
        assert "the test's broker" in outcome.err

    def test_show_hides_the_secrets_of_urls(self, operator: Operator) -> None:
        failed = task(metadata={"note": "see http://user:sesame@example.com/x?sesame for more", "year": 1969})
        sent = to_message(operator.topics.tasks[3], failed)
        came_from = {"referer": b"https://example.org/private/sesame"}
        letter = operator.fail(Message(sent.topic, sent.key, sent.value, came_from), POISON)

        shown, raw = operator.run("show", letter), operator.run("show", letter, "--raw")

        assert shown.status == raw.status == 0
        assert '"audio": "https://example.org/a song.mp3"' in shown.out
        assert '"hook_url": "https://example.org"' in shown.out
        assert "see http://example.com/x for more" in shown.out
        assert '"year": 1969' in shown.out
        assert "sesame" not in shown.out
        assert raw.out.count("sesame") == 5
        assert POISON.message in shown.out

    def test_show_escapes_control_characters_of_binary_bodies(self, operator: Operator) -> None:
        nasty = b'\x1b[2J\xff\x00{"audio": "https://example.org/a?sesame"'
        letter = operator.fail(Message(operator.topics.tasks[3], "\x1b[31mkey", nasty, {"h": b"\x1b\xff"}), UNPARSABLE)

        shown, raw, listed = operator.run("show", letter), operator.run("show", letter, "--raw"), operator.run("list")

        assert "1b 5b 32 4a ff 00 7b" in shown.out
        assert "sesame" not in shown.out.replace("\n", "")
        assert b"sesame".hex(" ") in raw.out.replace("\n", "")
        assert "\x1b" not in shown.out + raw.out + listed.out
        assert r"\x1b[31mkey" in listed.out

    @on_every_engine
    def test_a_thousand_letters_are_listed_in_order(self, operator: Operator) -> None:
        jobs = [to_message(operator.topics.tasks[3], task()) for _ in range(1000)]
        for start in range(0, 1000, 250):
            operator.transport.publish(
                *(dead_letter(operator.topics.dead_letters, job, POISON) for job in jobs[start : start + 250])
            )

        listed = operator.listed()

        assert sorted(letter["task"] for letter in listed) == sorted(job.key for job in jobs)
        times = [letter["failed_at"] for letter in listed]
        assert times[0] < times[-1]
        assert operator.listed_ids("--limit", "3") == [letter["id"] for letter in listed[:3]]


class TestReplay:
    @on_every_engine
    @pytest.mark.parametrize("error", [UNDELIVERED, GONE], ids=lambda error: str(error.kind))
    def test_an_undelivered_result_is_replayed_unchanged(self, operator: Operator, error: PipelineError) -> None:
        whole = to_message(operator.topics.results, result(task()))
        sent = Message(whole.topic, whole.key, whole.value, {"traceparent": b"00-a-b-01"})
        letter = operator.fail(sent, error)

        outcome = operator.run("replay", letter)

        (replayed,) = operator.messages(operator.topics.results)
        assert (replayed.key, replayed.value) == (sent.key, sent.value)
        assert replayed.headers == {"traceparent": b"00-a-b-01", "replayed-from": letter.encode()}
        assert outcome.status == 0
        assert letter in outcome.out
        assert operator.listed() == []

    def test_a_replay_starts_without_spent_attempts(self, operator: Operator) -> None:
        trials = {"attempts": b"4", "first-failed-at": b"1.5", "last-error": b"x", "not-before": b"9999999999999"}
        original = {"original-topic": operator.topics.results.encode()}
        whole = to_message(operator.topics.retry_names[0], result(task()))
        letter = Message(operator.topics.dead_letters, whole.key, whole.value, {**trials, **original})
        operator.transport.publish(letter)

        operator.run("replay", *operator.ids())

        (replayed,) = operator.messages(operator.topics.results)
        assert set(replayed.headers) == {"replayed-from"}

    @on_every_engine
    @pytest.mark.parametrize("value", [bytes(range(256)) + b'{"a": ', b'{ "task_uuid": 1 }'], ids=["bytes", "json"])
    def test_unparsable_bytes_are_replayed_unchanged(self, operator: Operator, value: bytes) -> None:
        letter = operator.fail(Message(operator.topics.tasks[5], "k", value, {"h": b"\xff\x00"}), UNPARSABLE)

        operator.run("replay", letter)

        (replayed,) = operator.messages(operator.topics.tasks[5])
        assert (replayed.key, replayed.value, replayed.headers["h"]) == ("k", value, b"\xff\x00")

    @on_every_engine
    def test_a_quarantined_job_is_replayed_as_a_new_run(self, operator: Operator) -> None:
        failed = task(metadata={"größe": [1.0, None, "\x00"]}, priority=5)
        body = {**json.loads(failed.model_dump_json()), "field_of_a_newer_version": {"a": 1}}
        letter = operator.fail(
            Message(operator.topics.tasks[5], str(failed.task_uuid), json.dumps(body).encode()), POISON
        )

        outcome = operator.run("replay", letter)

        (replayed,) = operator.messages(operator.topics.tasks[5])
        run = f"r{letter.replace('/', '-')}"
        assert json.loads(replayed.value) == {**body, "run": run}
        new = {"run": run, "field_of_a_newer_version": {"a": 1}}
        assert SeparationTask.model_validate_json(replayed.value) == SeparationTask(**{**dict(failed), **new})
        assert run in outcome.out

    @pytest.mark.parametrize("error", [UNPARSABLE, NEWER], ids=lambda error: str(error.code))
    def test_an_unreadable_job_that_was_reported_is_replayed_as_a_new_run(
        self, operator: Operator, error: PipelineError
    ) -> None:
        body = {**json.loads(task().model_dump_json()), "version": 2, "priority": "urgent"}
        sent = Message(operator.topics.tasks[3], body["task_uuid"], json.dumps(body).encode())
        letter = operator.fail(sent, error)

        operator.run("replay", letter)

        (replayed,) = operator.messages(operator.topics.tasks[3])
        assert json.loads(replayed.value) == {**body, "run": f"r{letter.replace('/', '-')}"}

    def test_a_result_that_killed_its_uploader_is_replayed_as_a_new_run(self, operator: Operator) -> None:
        failed = result(task(run="r9-9"))
        letter = operator.fail(to_message(operator.topics.results, failed), POISON)

        operator.run("replay", letter)

        (replayed,) = operator.messages(operator.topics.results)
        expected = failed.task.model_copy(update={"run": f"r{letter.replace('/', '-')}"})
        assert SeparationResult.model_validate_json(replayed.value) == failed.model_copy(update={"task": expected})

    @pytest.mark.parametrize("value", [b"[1, 2]", b'{"task": 5}', b"\xff", b"[" * 100_000], ids=str)
    def test_poison_without_a_job_is_replayed_unchanged(self, operator: Operator, value: bytes) -> None:
        letter = operator.fail(Message(operator.topics.results, "k", value), POISON)

        assert operator.run("show", letter).status == 0
        operator.run("replay", letter)

        assert [message.value for message in operator.messages(operator.topics.results)] == [value]

    @on_every_engine
    def test_a_second_replay_publishes_nothing(self, operator: Operator) -> None:
        letter = operator.fail(to_message(operator.topics.tasks[3], task()), POISON)
        operator.run("replay", letter)

        second = operator.run("replay", letter)

        assert second.status == 0
        assert "nothing to do, replayed" in second.out
        assert len(operator.messages(operator.topics.tasks[3])) == 1

    def test_replay_again_is_another_new_run(self, operator: Operator) -> None:
        letter = operator.fail(to_message(operator.topics.tasks[3], task()), POISON)
        operator.run("replay", letter)

        operator.run("replay", letter, "--again")

        runs = [json.loads(message.value)["run"] for message in operator.messages(operator.topics.tasks[3])]
        assert runs == [f"r{letter.replace('/', '-')}", f"r{letter.replace('/', '-')}-2"]

    def test_many_letters_are_replayed_in_order(self, operator: Operator) -> None:
        failed = [to_message(operator.topics.results, result(task())) for _ in range(230)]
        operator.transport.publish(*(dead_letter(operator.topics.dead_letters, job, UNDELIVERED) for job in failed))

        outcome = operator.run("replay", "--error", "webhook_failed", "--yes")

        assert outcome.out.count(": replayed to ") == 230
        assert [message.key for message in operator.messages(operator.topics.results)] == [job.key for job in failed]
        assert operator.listed() == []

    def test_an_unknown_id_does_not_stop_the_others(self, operator: Operator) -> None:
        letter = operator.fail(to_message(operator.topics.results, result(task())), UNDELIVERED)

        outcome = operator.run("replay", "7/99", letter, letter)

        assert outcome.status == 1
        assert "7/99: no such dead letter" in outcome.err
        assert len(operator.messages(operator.topics.results)) == 1


class TestRefusal:
    def test_a_truncated_letter_cannot_be_replayed(self, operator: Operator) -> None:
        whole = dead_letter(operator.topics.dead_letters, to_message(operator.topics.tasks[3], task()), POISON)
        cut = Message(whole.topic, whole.key, whole.value[:100], {**whole.headers, "original-bytes": b"2000000"})
        operator.transport.publish(cut)
        (letter,) = operator.ids()
        other = operator.fail(to_message(operator.topics.results, result(task())), UNDELIVERED)

        outcome = operator.run("replay", letter, other)

        assert outcome.status == 1
        assert f"{letter}: cannot be replayed: only 100 of its 2000000 bytes were kept" in outcome.err
        assert "cannot be replayed" in operator.run("show", letter).out
        assert operator.listed_ids() == [letter]
        assert len(operator.messages(operator.topics.results)) == 1

    def test_a_job_whose_outcome_was_too_large_is_replayed_as_a_new_run(self, operator: Operator) -> None:
        whole = dead_letter(operator.topics.dead_letters, to_message(operator.topics.tasks[3], task()), UNPARSABLE)
        length = f"{len(whole.value)}".encode()
        operator.transport.publish(
            Message(whole.topic, whole.key, whole.value, {**whole.headers, "original-bytes": length})
        )
        (letter,) = operator.ids()

        assert operator.run("replay", letter).status == 0

        (replayed,) = operator.messages(operator.topics.tasks[3])
        assert json.loads(replayed.value)["run"] == f"r{letter.replace('/', '-')}"

    @pytest.mark.parametrize(
        ("headers", "why"),
        [({"original-topic": b"uvr_elsewhere"}, "no service reads"), ({}, "does not name the topic")],
        ids=["unknown", "missing"],
    )
    def test_a_topic_without_readers_is_refused(self, operator: Operator, headers: dict[str, bytes], why: str) -> None:
        operator.transport.publish(Message(operator.topics.dead_letters, "k", b"{}", headers))
        (letter,) = operator.ids()

        outcome = operator.run("replay", letter)

        assert outcome.status == 1
        assert why in outcome.err
        assert operator.listed_ids() == [letter]
        assert operator.messages("uvr_elsewhere") == []


class TestDrop:
    @on_every_engine
    def test_a_dropped_letter_is_hidden_from_the_list_only(self, operator: Operator) -> None:
        letter = operator.fail(to_message(operator.topics.results, result(task())), UNDELIVERED)
        kept = operator.fail(to_message(operator.topics.results, result(task())), UNDELIVERED)

        outcome = operator.run("drop", letter)

        assert (outcome.status, outcome.out) == (0, f"{letter}: dropped\n")
        assert operator.listed_ids() == [kept]
        assert {found["id"]: found["resolution"] for found in operator.listed("--all")} == {
            letter: "dropped",
            kept: None,
        }
        assert "dropped 20" in operator.run("list", "--all").out
        assert "dropped 20" in operator.run("show", letter).out
        assert operator.messages(operator.topics.results) == []

    def test_a_second_drop_marks_nothing(self, operator: Operator) -> None:
        letter = operator.fail(to_message(operator.topics.results, result(task())), UNDELIVERED)
        operator.run("drop", letter)
        marks = len(operator.ids())

        second = operator.run("drop", letter)

        assert second.status == 0
        assert "nothing to do, dropped" in second.out
        assert len(operator.ids()) == marks

    def test_a_dropped_letter_is_replayed_only_with_again(self, operator: Operator) -> None:
        letter = operator.fail(to_message(operator.topics.results, result(task())), UNDELIVERED)
        operator.run("drop", letter)

        operator.run("replay", letter)
        assert operator.messages(operator.topics.results) == []
        operator.run("replay", letter, "--again")
        assert len(operator.messages(operator.topics.results)) == 1

    def test_an_unknown_letter(self, operator: Operator) -> None:
        outcome = operator.run("drop", "0/12345")

        assert outcome.status == 1
        assert "0/12345: no such dead letter" in outcome.err

    def test_a_mark_cannot_be_addressed_as_a_letter(self, operator: Operator) -> None:
        letter = operator.fail(to_message(operator.topics.results, result(task())), UNDELIVERED)
        operator.run("drop", letter)
        (mark,) = set(operator.ids()) - {letter}

        for command in ("show", "drop", "replay"):
            assert operator.run(command, mark).status == 1


class TestConfirmation:
    @pytest.mark.parametrize("verb", ["replay", "drop"])
    @on_every_engine
    def test_filters_act_only_with_yes(self, operator: Operator, verb: str) -> None:
        meant = operator.fail(to_message(operator.topics.results, result(task())), UNDELIVERED)
        other = operator.fail(to_message(operator.topics.results, result(task())), UNPARSABLE)
        done = operator.fail(to_message(operator.topics.results, result(task())), UNDELIVERED)
        operator.run("drop", done)

        shown = operator.run(verb, "--error", "webhook_failed")
        assert shown.status == 0
        assert meant in shown.out
        assert other not in shown.out
        assert done not in shown.out
        assert f"would {verb} 1; nothing was done" in shown.out
        assert operator.listed_ids() == [meant, other]

        assert operator.run(verb, "--error", "webhook_failed", "--yes").status == 0
        assert operator.listed_ids() == [other]

    @pytest.mark.parametrize("verb", ["replay", "drop"])
    def test_filters_that_match_nothing(self, operator: Operator, verb: str) -> None:
        outcome = operator.run(verb, "--kind", "poison", "--yes")

        assert outcome.status == 0
        assert "no such dead letters" in outcome.err


class Tampered:
    """A transport with some calls replaced."""

    def __init__(self, transport: Transport, **calls: Callable[..., Any]) -> None:
        self._transport = transport
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        return self._calls.get(name) or getattr(self._transport, name)


class TestIdempotence:
    """Messages that are published more than once are identical to the byte."""

    @staticmethod
    def assert_all_alike(operator: Operator, topic: str, times: int) -> None:
        messages = operator.messages(topic)
        assert len(messages) == times
        assert all(message == messages[0] for message in messages)
        assert operator.listed() == []

    @on_every_engine
    def test_a_crash_between_message_and_mark(self, operator: Operator) -> None:
        letter = operator.fail(to_message(operator.topics.tasks[3], task()), POISON)

        def publish(*messages: Message) -> None:
            if any("resolves" in message.headers for message in messages):
                raise InfrastructureError("the broker does not answer", code=ErrorCode.BROKER_UNAVAILABLE)
            operator.transport.publish(*messages)

        with pytest.raises(InfrastructureError):
            operator.run("replay", letter, transport=Tampered(operator.transport, publish=publish))
        assert operator.listed_ids() == [letter]

        operator.run("replay", letter)

        self.assert_all_alike(operator, operator.topics.tasks[3], times=2)

    def test_a_failed_publication_leaves_the_letter(self, operator: Operator) -> None:
        letter = operator.fail(to_message(operator.topics.tasks[3], task()), POISON)

        def publish(*_messages: Message) -> None:
            raise InfrastructureError("the broker does not answer", code=ErrorCode.BROKER_UNAVAILABLE)

        with pytest.raises(InfrastructureError):
            operator.run("replay", letter, transport=Tampered(operator.transport, publish=publish))

        assert operator.messages(operator.topics.tasks[3]) == []
        assert operator.listed_ids() == [letter]

    @on_every_engine
    def test_two_operators_at_once(self, operator: Operator, backend: Backend) -> None:
        letter = operator.fail(to_message(operator.topics.tasks[3], task()), POISON)
        both_have_read = threading.Barrier(2)
        statuses: list[int] = []

        def operate(transport: Transport) -> None:
            def browse(topic: str) -> Iterator[StoredMessage]:
                seen = list(transport.browse(topic))
                both_have_read.wait(PATIENCE)
                return iter(seen)

            commands = DeadLetterCommands(Tampered(transport, browse=browse), operator.topics, "")
            arguments = parse(["replay", letter])
            statuses.append(arguments.run(commands, arguments))

        threads = [threading.Thread(target=operate, args=(backend.open(),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)

        assert statuses == [0, 0]
        self.assert_all_alike(operator, operator.topics.tasks[3], times=2)


class TestMalformedLetters:
    def test_a_letter_that_imitates_a_mark_is_a_letter(self, operator: Operator) -> None:
        first = operator.fail(to_message(operator.topics.results, result(task())), UNDELIVERED)
        like_a_mark = {"resolves": first.encode(), "resolution": b"dropped", "resolved-at": b"1"}
        second = operator.fail(Message(operator.topics.results, "k", b"x", like_a_mark), UNPARSABLE)

        assert operator.listed_ids() == [first, second]

    @pytest.mark.parametrize("failed_at", [b"nan", b"inf", b"-1", b"1e300", b"\xff", b""])
    def test_an_invalid_time_defaults_to_the_time_of_publication(self, operator: Operator, failed_at: bytes) -> None:
        letter = dead_letter(
            operator.topics.dead_letters, to_message(operator.topics.results, result(task())), UNDELIVERED
        )
        operator.transport.publish(
            Message(letter.topic, letter.key, letter.value, {**letter.headers, "failed-at": failed_at})
        )

        (stored,) = operator.stored(operator.topics.dead_letters)
        (listed,) = operator.listed("--newer-than", "1h")
        assert listed["failed_at"] == stored.published_at
        assert operator.run("list").status == 0

    @pytest.mark.parametrize("resolves", [b"here", b"0/x", b"1", b"\xff/1", "١/٢".encode()])
    def test_a_mark_with_an_invalid_position_is_listed_as_a_letter(self, operator: Operator, resolves: bytes) -> None:
        operator.transport.publish(
            Message(operator.topics.dead_letters, "k", b"", {"resolves": resolves, "resolution": b"dropped"})
        )

        assert operator.listed_ids() == operator.ids()
