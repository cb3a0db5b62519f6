"""Results that cannot be delivered to the client, or that crash their uploader."""

from __future__ import annotations

import pytest

from pipeline.consuming.handler import Outcome
from pipeline.errors import ErrorCode, InfrastructureError, PermanentError, PipelineError, PoisonError
from pipeline.messages import SeparationResult, TaskState, from_message
from pipeline.storage import ObjectStore, StoredObject
from pipeline.storage.local.store import LocalStore
from pipeline.storage.object_keys import outcome_key
from pipeline.storage.signed_links import LinkSigner
from tests.uploader.conftest import DEAD_LETTERS, EVENTS, RESULTS, Bench
from tests.uploader.outcomes import (
    Song,
    check_same_outcome,
    failed_result,
    failure_of,
    handle,
    is_handed_off,
    local_files,
    terminal_event,
    webhook_body,
)

POISON = PoisonError("the job ended its worker too often", code=ErrorCode.WORKER_DIED)


def topics(outcome: Outcome) -> list[str]:
    return [message.topic for message in outcome.outputs]


def replacement(outcome: Outcome) -> SeparationResult:
    """Return the result that replaces the failed one."""
    return from_message(SeparationResult, next(message for message in outcome.outputs if message.topic == RESULTS))


@pytest.mark.parametrize("error", [(500, ErrorCode.WEBHOOK_FAILED), (410, ErrorCode.WEBHOOK_GONE)])
def test_failed_webhook_becomes_a_dead_letter_that_can_be_replayed(
    bench: Bench, song: Song, error: tuple[int, ErrorCode]
) -> None:
    status, code = error
    bench.receiver.answer(status)
    result = bench.hand_off(song)
    outcome = bench.uploader.on_failure(result, failure_of(bench, result))

    event, letter = outcome.outputs
    assert (terminal_event(outcome).status, event.topic, outcome.end) == (TaskState.SUCCESS, EVENTS, "undelivered")
    assert (letter.topic, letter.key) == (DEAD_LETTERS, str(result.task_uuid))
    assert from_message(SeparationResult, letter) == result
    assert letter.headers["original-topic"] == RESULTS.encode()
    assert letter.headers["error-code"] == code.value.encode()
    assert is_handed_off(bench, result) == [False, False]

    bench.receiver.answer(200)
    handle(bench.uploader, from_message(SeparationResult, letter))
    assert check_same_outcome(bench, bench.receiver.wait_for(2))["status"] == "success"


class StagingOnlyStore(LocalStore):
    """A store that takes stems and cannot copy them to their final keys."""

    def copy_from(self, other: ObjectStore, source_key: str, key: str, *, content_type: str) -> StoredObject:
        raise PermanentError("the store refuses copies", code=ErrorCode.STORAGE_REFUSED)


def test_stems_of_a_decided_outcome_stay_until_they_are_published(bench: Bench, song: Song) -> None:
    """The outcome is decided, its stems are not published yet, and the result is given up and replayed."""
    store = StagingOnlyStore(bench.folder / "stems", "http://127.0.0.1:8000", LinkSigner(b"k" * 32))
    result = bench.hand_off(song)
    with pytest.raises(PermanentError):
        handle(bench.uploader_with(store=store), result)
    letter = bench.uploader.on_failure(result, PermanentError("refused", code=ErrorCode.STORAGE_REFUSED)).outputs[1]
    assert is_handed_off(bench, result) == [False, False]

    handle(bench.uploader, from_message(SeparationResult, letter))
    assert check_same_outcome(bench, bench.receiver.wait_for(1))["status"] == "success"


def test_undelivered_failure_becomes_a_dead_letter(bench: Bench) -> None:
    bench.receiver.answer(500)
    result = failed_result(bench.task())
    outcome = bench.uploader.on_failure(result, failure_of(bench, result))
    assert topics(outcome) == [EVENTS, DEAD_LETTERS]
    assert (terminal_event(outcome).status, terminal_event(outcome).message) == (
        TaskState.FAILED,
        "the source answered 404",
    )


def test_result_that_crashes_the_uploader_fails_the_task_and_is_cleaned_up(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song, bench.task(metadata={"order": 17}))
    outcome = bench.uploader.on_failure(result, POISON)
    assert (topics(outcome), outcome.end) == ([RESULTS], "replaced")
    assert is_handed_off(bench, result) == [True, True]

    handle(bench.uploader, replacement(outcome))
    body = webhook_body(bench)
    assert (body["task_uuid"], body["status"], body["metadata"]) == (str(result.task_uuid), "failed", {"order": 17})
    assert body["error"]["code"] == "worker_died"
    assert local_files(bench.folder / "handoff") == set()


def test_result_that_crashes_the_uploader_after_its_decision_is_delivered(bench: Bench, song: Song) -> None:
    """The webhook may or may not have been delivered before the crash; a further crash must not lose it."""
    result = bench.hand_off(song)
    bench.receiver.answer(500, 200)
    failure_of(bench, result)
    outcome = bench.uploader.on_failure(result, POISON)
    assert topics(outcome) == [RESULTS]
    last = handle(bench.uploader, replacement(outcome))
    assert check_same_outcome(bench, bench.receiver.wait_for(2))["status"] == "success"
    assert terminal_event(last).status is TaskState.SUCCESS
    assert local_files(bench.folder / "handoff") == set()


def test_failed_result_that_crashes_the_uploader_is_the_outcome_and_is_not_replaced(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    outcome = bench.uploader.on_failure(failed_result(result.task), POISON)
    assert (topics(outcome), outcome.end) == ([EVENTS], "undelivered")
    assert terminal_event(outcome).status is TaskState.FAILED

    late = handle(bench.uploader, result)
    assert terminal_event(late).status is TaskState.FAILED
    assert webhook_body(bench)["error"]["code"] == "source_not_found"


def test_result_with_a_damaged_outcome_becomes_a_dead_letter(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    bench.store.put_new(outcome_key(result.task_uuid, ""), b"{}", content_type="application/json")
    outcome = bench.uploader.on_failure(result, failure_of(bench, result))
    assert topics(outcome) == [RESULTS, DEAD_LETTERS]
    failed = replacement(outcome)
    last = bench.uploader.on_failure(failed, failure_of(bench, failed))
    assert topics(last) == [EVENTS, DEAD_LETTERS]
    assert terminal_event(last).status is TaskState.FAILED
    assert bench.receiver.received == []


@pytest.mark.parametrize(
    "error", [POISON, PermanentError("gone", code=ErrorCode.WEBHOOK_GONE)], ids=["poison", "webhook"]
)
def test_nothing_is_decided_while_the_store_is_unavailable(bench: Bench, error: PipelineError) -> None:
    (bench.folder / "stems").write_bytes(b"a file in place of the store's folder")
    with pytest.raises(InfrastructureError):
        bench.uploader.on_failure(failed_result(bench.task()), error)
