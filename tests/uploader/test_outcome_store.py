"""One outcome, one body and one webhook id per task, despite redeliveries, crashes and concurrent uploaders."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from standardwebhooks import Webhook

from pipeline.errors import ErrorCode, PermanentError
from pipeline.messages import SeparationResult, TaskState
from pipeline.storage.object_keys import outcome_key
from tests.support.webhook_receiver import Received
from tests.uploader.conftest import ENGINES, SECRET, Bench
from tests.uploader.outcomes import (
    Song,
    check_same_outcome,
    failed_result,
    failure_of,
    handle,
    is_handed_off,
    local_files,
    published_file,
    samples_of,
    terminal_event,
)
from tests.uploader.power_cuts import PowerCut, uploader_with_power_cut
from uploader.outcome_store import OutcomeRecord, OutcomeStore
from uploader.publish import StemPublisher


def other_bits(song: Song) -> Song:
    """Return stems that differ, as those of a second separation may."""
    return {name: samples * 0.5 for name, samples in song.items()}


def webhooks_of(bench: Bench, result: SeparationResult) -> list[Received]:
    """Return the received webhooks of the result's task."""
    webhook_id = f"msg_{result.task_uuid.hex}"
    return [webhook for webhook in bench.receiver.received if webhook.headers["webhook-id"] == webhook_id]


def check_cleaned_up(bench: Bench) -> None:
    assert local_files(bench.folder / "handoff") == set()
    assert {path for path in local_files(bench.folder / "stems") if "staged" in path} == set()
    assert list(bench.workdir.path.glob("job-*")) == []


@ENGINES
def test_redelivered_result_sends_the_same_webhook(bench: Bench, song: Song) -> None:
    """Causes: a crash after the webhook, a duplicate, a replayed dead letter."""
    result = bench.hand_off(song)
    first, second = handle(bench.uploader, result), handle(bench.uploader, result)
    assert check_same_outcome(bench, bench.receiver.wait_for(2))["status"] == "success"
    assert terminal_event(first).status is terminal_event(second).status is TaskState.SUCCESS
    assert is_handed_off(bench, result) == [False, False]


@ENGINES
def test_each_try_signs_the_same_body_anew(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    bench.receiver.answer(500, 503, 200)
    assert failure_of(bench, result).code is failure_of(bench, result).code is ErrorCode.WEBHOOK_FAILED
    handle(bench.uploader, result)
    webhooks = bench.receiver.wait_for(3)
    check_same_outcome(bench, webhooks)
    for webhook in webhooks:
        Webhook(SECRET).verify(webhook.body, dict(webhook.headers))


@ENGINES
def test_second_result_of_the_task_changes_nothing(bench: Bench, song: Song) -> None:
    """The processor crashed after storing its result, and the second separation gave other bits."""
    first = bench.hand_off(song)
    bench.receiver.answer(500, 200)
    failure_of(bench, first)
    second = bench.hand_off(other_bits(song), first.task)
    handle(bench.uploader, second)
    check_same_outcome(bench, bench.receiver.wait_for(2))
    np.testing.assert_allclose(
        samples_of(published_file(bench, first.task_uuid, "vocals")) / 32768, song["vocals"], rtol=0, atol=0.51 / 32768
    )
    handle(bench.uploader, first)
    assert is_handed_off(bench, first) + is_handed_off(bench, second) == [False] * 4


def test_failure_after_a_success_is_ignored(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    handle(bench.uploader, result)
    outcome = handle(bench.uploader, failed_result(result.task))
    assert check_same_outcome(bench, bench.receiver.wait_for(2))["status"] == "success"
    assert (terminal_event(outcome).status, terminal_event(outcome).message) == (TaskState.SUCCESS, None)


def test_success_after_a_failure_is_ignored(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    handle(bench.uploader, failed_result(result.task))
    outcome = handle(bench.uploader, result)
    assert check_same_outcome(bench, bench.receiver.wait_for(2))["status"] == "failed"
    assert (terminal_event(outcome).status, outcome.end) == (TaskState.FAILED, "failed")
    check_cleaned_up(bench)


def test_requested_repeat_has_its_own_outcome(bench: Bench, song: Song) -> None:
    first = bench.hand_off(song)
    handle(bench.uploader, failed_result(first.task))
    again = bench.hand_off(song, first.task.model_copy(update={"run": "r0-17"}))
    handle(bench.uploader, again)
    handle(bench.uploader, again)
    webhooks = [(webhook.headers["webhook-id"], webhook.json["status"]) for webhook in bench.receiver.wait_for(3)]
    own = f"msg_{first.task_uuid.hex}_r0-17"
    assert webhooks == [(f"msg_{first.task_uuid.hex}", "failed"), (own, "success"), (own, "success")]
    check_same_outcome(bench, bench.receiver.received[1:])


@pytest.mark.slow
@pytest.mark.parametrize("redelivered", ["the same result", "another one first"])
def test_power_cut_at_any_step_leaves_one_outcome(bench: Bench, song: Song, redelivered: str) -> None:
    crashes = 0
    for steps in itertools.count():
        result = bench.hand_off(song)
        try:
            handle(uploader_with_power_cut(bench, steps), result)
        except PowerCut:
            crashes += 1
        else:
            break
        if redelivered != "the same result":
            handle(bench.uploader, bench.hand_off(other_bits(song), result.task))
            check_same_outcome(bench, webhooks_of(bench, result))
        handle(bench.uploader, result)
        assert check_same_outcome(bench, webhooks_of(bench, result))["status"] == "success"
        check_cleaned_up(bench)
    assert crashes > 25


@ENGINES
def test_concurrent_uploaders_agree(bench: Bench, song: Song) -> None:
    for repetition in range(1, 4):
        first = bench.hand_off(song)
        results = [first, bench.hand_off(other_bits(song), first.task), failed_result(first.task), first]
        together = threading.Barrier(len(results))

        def work(result: SeparationResult, together: threading.Barrier = together) -> str:
            together.wait(20.0)
            return terminal_event(handle(bench.uploader, result)).status

        with ThreadPoolExecutor(len(results)) as pool:
            states = set(pool.map(work, results))
        body = check_same_outcome(bench, bench.receiver.wait_for(repetition * len(results))[-len(results) :])
        assert states == {body["status"]}
        assert is_handed_off(bench, first) == [False, False]


class PausedStore(OutcomeStore):
    """A store that pauses before it decides, until ``go_on`` is set."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.store)
        self.reached, self.go_on = threading.Event(), threading.Event()

    def decide(self, result: SeparationResult, record: OutcomeRecord) -> OutcomeRecord:
        self.reached.set()
        assert self.go_on.wait(20.0)
        return super().decide(result, record)


@pytest.mark.parametrize("bits", ["same", "other"])
def test_paused_uploader_delivers_the_outcome_that_another_decided(bench: Bench, song: Song, bits: str) -> None:
    paused = PausedStore(bench)
    first = bench.hand_off(song)
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(handle, bench.uploader_with(outcomes=paused), first)
        assert paused.reached.wait(20.0)
        try:
            handle(bench.uploader, bench.hand_off(song if bits == "same" else other_bits(song), first.task))
        finally:
            paused.go_on.set()
        stopped.result()
    assert check_same_outcome(bench, bench.receiver.wait_for(2))["status"] == "success"
    check_cleaned_up(bench)


class InterruptedStore(OutcomeStore):
    """A store that calls ``meanwhile`` right after each decision."""

    def __init__(self, bench: Bench, meanwhile: Callable[[], None]) -> None:
        super().__init__(bench.store)
        self._meanwhile = meanwhile

    def decide(self, result: SeparationResult, record: OutcomeRecord) -> OutcomeRecord:
        decided = super().decide(result, record)
        self._meanwhile()
        return decided


def test_stems_staged_after_the_decision_do_not_change_the_outcome(bench: Bench, song: Song) -> None:
    """The other uploader read the store before the decision and stages its stems after it."""
    first = bench.hand_off(song)
    second = bench.hand_off(other_bits(song), first.task)

    def stage() -> None:
        publisher = StemPublisher(bench.handoff, bench.store, bench.workdir)
        for stem in first.stems:
            publisher.stage(first, stem, gain=1.0)

    handle(bench.uploader_with(outcomes=InterruptedStore(bench, stage)), second)
    check_same_outcome(bench, bench.receiver.wait_for(1))
    handle(bench.uploader, first)
    check_cleaned_up(bench)


def test_deleted_stems_do_not_change_the_webhook(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    handle(bench.uploader, result)
    for path in (bench.folder / "stems").glob("*.wav"):
        path.unlink()
    handle(bench.uploader, result)
    first, second = bench.receiver.wait_for(2)
    assert first.body == second.body


def test_damaged_record_fails_the_delivery(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    bench.store.put_new(outcome_key(result.task_uuid, ""), b'{"state":', content_type="application/json")
    error = failure_of(bench, result)
    assert (type(error), error.code) == (PermanentError, ErrorCode.INTERNAL)
    assert bench.receiver.received == []
