"""What becomes of a result that the client cannot be told of, or that takes its uploader down."""

from __future__ import annotations

import pytest

from pipeline.consuming.consumer import Outcome
from pipeline.errors import ErrorCode, InfrastructureError, PermanentError, PipelineError, PoisonError
from pipeline.messages import SeparationResult, TaskState, from_message
from pipeline.storage.object_keys import outcome_key
from tests.uploader.conftest import DEAD_LETTERS, EVENTS, RESULTS, Bench
from tests.uploader.outcomes import (
    Song,
    check_told_alike,
    failed_result,
    finish,
    is_handed_off,
    local_files,
    refused,
    terminal,
    told,
)

POISON = PoisonError("the job ended its worker too often", code=ErrorCode.WORKER_DIED)


def topics(outcome: Outcome) -> list[str]:
    return [message.topic for message in outcome.outputs]


def instead(outcome: Outcome) -> SeparationResult:
    """The result that takes the place of the one that failed."""
    return from_message(SeparationResult, next(message for message in outcome.outputs if message.topic == RESULTS))


@pytest.mark.parametrize("error", [(500, ErrorCode.WEBHOOK_FAILED), (410, ErrorCode.WEBHOOK_GONE)])
def test_a_webhook_that_failed_for_good_is_a_dead_letter_and_loses_nothing(
    bench: Bench, song: Song, error: tuple[int, ErrorCode]
) -> None:
    status, code = error
    bench.receiver.answer(status)
    result = bench.hand_off(song)
    outcome = bench.uploader.on_failure(result, refused(bench, result))

    event, letter = outcome.outputs
    assert (terminal(outcome).status, event.topic, outcome.end) == (TaskState.SUCCESS, EVENTS, "untold")
    assert (letter.topic, letter.key) == (DEAD_LETTERS, str(result.task_uuid))
    assert from_message(SeparationResult, letter) == result
    assert letter.headers["original-topic"] == RESULTS.encode()
    assert letter.headers["error-code"] == code.value.encode()
    assert is_handed_off(bench, result) == [False, False]

    bench.receiver.answer(200)
    finish(bench.uploader, from_message(SeparationResult, letter))
    assert check_told_alike(bench, bench.receiver.wait_for(2))["status"] == "success"


def test_a_failure_that_could_not_be_told_is_kept_as_well(bench: Bench) -> None:
    bench.receiver.answer(500)
    result = failed_result(bench.task())
    outcome = bench.uploader.on_failure(result, refused(bench, result))
    assert topics(outcome) == [EVENTS, DEAD_LETTERS]
    assert (terminal(outcome).status, terminal(outcome).message) == (TaskState.FAILED, "the source answered 404")


def test_a_result_that_kills_the_uploader_still_fails_the_task_and_leaves_nothing(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song, bench.task(metadata={"order": 17}))
    outcome = bench.uploader.on_failure(result, POISON)
    assert (topics(outcome), outcome.end) == ([RESULTS], "replaced")
    assert is_handed_off(bench, result) == [True, True]

    finish(bench.uploader, instead(outcome))
    body = told(bench)
    assert (body["task_uuid"], body["status"], body["metadata"]) == (str(result.task_uuid), "failed", {"order": 17})
    assert body["error"]["code"] == "worker_died"
    assert local_files(bench.folder / "handoff") == set()


def test_a_result_that_kills_the_uploader_after_its_outcome_was_decided_is_told(bench: Bench, song: Song) -> None:
    """Whether the client was told before, nobody knows; another death, and it would never be."""
    result = bench.hand_off(song)
    bench.receiver.answer(500, 200)
    refused(bench, result)
    outcome = bench.uploader.on_failure(result, POISON)
    assert topics(outcome) == [RESULTS]
    last = finish(bench.uploader, instead(outcome))
    assert check_told_alike(bench, bench.receiver.wait_for(2))["status"] == "success"
    assert terminal(last).status is TaskState.SUCCESS
    assert local_files(bench.folder / "handoff") == set()


def test_a_failed_result_that_kills_the_uploader_does_not_go_round_and_is_the_outcome(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    outcome = bench.uploader.on_failure(failed_result(result.task), POISON)
    assert (topics(outcome), outcome.end) == ([EVENTS], "untold")
    assert terminal(outcome).status is TaskState.FAILED

    late = finish(bench.uploader, result)
    assert terminal(late).status is TaskState.FAILED
    assert told(bench)["error"]["code"] == "source_not_found"


def test_a_result_whose_outcome_cannot_be_read_ends_among_the_dead_letters(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    bench.store.put_new(outcome_key(result.task_uuid, ""), b"{}", content_type="application/json")
    outcome = bench.uploader.on_failure(result, refused(bench, result))
    assert topics(outcome) == [RESULTS, DEAD_LETTERS]
    failed = instead(outcome)
    last = bench.uploader.on_failure(failed, refused(bench, failed))
    assert topics(last) == [EVENTS, DEAD_LETTERS]
    assert terminal(last).status is TaskState.FAILED
    assert bench.receiver.received == []


@pytest.mark.parametrize(
    "error", [POISON, PermanentError("gone", code=ErrorCode.WEBHOOK_GONE)], ids=["poison", "webhook"]
)
def test_while_the_store_is_away_nothing_is_decided(bench: Bench, error: PipelineError) -> None:
    (bench.folder / "stems").write_bytes(b"a file where the store's folder should be")
    with pytest.raises(InfrastructureError):
        bench.uploader.on_failure(failed_result(bench.task()), error)
