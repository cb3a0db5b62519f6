"""One task, one outcome, one body under one id: whatever comes twice, dies, or works on the same task meanwhile."""

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
from tests.uploader.mortal import PowerCut, mortal_uploader
from tests.uploader.outcomes import (
    Song,
    check_told_alike,
    failed_result,
    finish,
    fresh,
    is_handed_off,
    local_files,
    refused,
    samples_of,
    stored,
    terminal,
)
from uploader.outcome_store import OutcomeRecord, OutcomeStore
from uploader.publish import StemPublisher


def other_bits(song: Song) -> Song:
    """What a second separation may give."""
    return {name: samples * 0.5 for name, samples in song.items()}


def about(bench: Bench, result: SeparationResult) -> list[Received]:
    """What the receiver was told of the result's task."""
    webhook_id = f"msg_{result.task_uuid.hex}"
    return [webhook for webhook in bench.receiver.received if webhook.headers["webhook-id"] == webhook_id]


def check_tidy(bench: Bench) -> None:
    assert local_files(bench.folder / "handoff") == set()
    assert {path for path in local_files(bench.folder / "stems") if "staged" in path} == set()
    assert list(bench.workdir.path.glob("job-*")) == []


@ENGINES
def test_a_result_that_comes_twice_is_told_alike(bench: Bench, song: Song) -> None:
    """A crash after the webhook, a duplicate, a replayed dead letter."""
    result = bench.hand_off(song)
    first, second = finish(bench.uploader, result), finish(bench.uploader, result)
    assert check_told_alike(bench, bench.receiver.wait_for(2))["status"] == "success"
    assert terminal(first).status is terminal(second).status is TaskState.SUCCESS
    assert is_handed_off(bench, result) == [False, False]


@ENGINES
def test_each_try_has_a_signature_of_its_own_over_the_same_body(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    bench.receiver.answer(500, 503, 200)
    assert refused(bench, result).code is refused(bench, result).code is ErrorCode.WEBHOOK_FAILED
    finish(bench.uploader, result)
    webhooks = bench.receiver.wait_for(3)
    check_told_alike(bench, webhooks)
    for webhook in webhooks:
        Webhook(SECRET).verify(webhook.body, dict(webhook.headers))


@ENGINES
def test_another_result_of_the_task_changes_nothing(bench: Bench, song: Song) -> None:
    """The processor died after its result was stored: it separated again, and not to the same bits."""
    first = bench.hand_off(song)
    bench.receiver.answer(500, 200)
    refused(bench, first)
    second = bench.hand_off(other_bits(song), first.task)
    finish(bench.uploader, second)
    check_told_alike(bench, bench.receiver.wait_for(2))
    np.testing.assert_allclose(
        samples_of(stored(bench, first.task_uuid, "vocals")) / 32768, song["vocals"], rtol=0, atol=0.51 / 32768
    )
    finish(bench.uploader, first)
    assert is_handed_off(bench, first) + is_handed_off(bench, second) == [False] * 4


def test_a_failure_after_a_success_is_none(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    finish(bench.uploader, result)
    outcome = finish(bench.uploader, failed_result(result.task))
    assert check_told_alike(bench, bench.receiver.wait_for(2))["status"] == "success"
    assert (terminal(outcome).status, terminal(outcome).message) == (TaskState.SUCCESS, None)


def test_a_success_after_a_failure_is_none(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    finish(bench.uploader, failed_result(result.task))
    outcome = finish(bench.uploader, result)
    assert check_told_alike(bench, bench.receiver.wait_for(2))["status"] == "failed"
    assert (terminal(outcome).status, outcome.end) == (TaskState.FAILED, "failed")
    check_tidy(bench)


def test_a_repeat_that_was_asked_for_has_an_outcome_of_its_own(bench: Bench, song: Song) -> None:
    first = bench.hand_off(song)
    finish(bench.uploader, failed_result(first.task))
    again = bench.hand_off(song, first.task.model_copy(update={"run": "r0-17"}))
    finish(bench.uploader, again)
    finish(bench.uploader, again)
    told = [(webhook.headers["webhook-id"], webhook.json["status"]) for webhook in bench.receiver.wait_for(3)]
    own = f"msg_{first.task_uuid.hex}_r0-17"
    assert told == [(f"msg_{first.task_uuid.hex}", "failed"), (own, "success"), (own, "success")]
    check_told_alike(bench, bench.receiver.received[1:])


@pytest.mark.slow
@pytest.mark.parametrize("redelivered", ["the same result", "another one first"])
def test_wherever_the_power_fails_the_outcome_is_one(bench: Bench, song: Song, redelivered: str) -> None:
    deaths = 0
    for steps in itertools.count():
        result = bench.hand_off(song)
        try:
            finish(mortal_uploader(bench, steps), result)
        except PowerCut:
            deaths += 1
        else:
            break
        if redelivered != "the same result":
            finish(bench.uploader, bench.hand_off(other_bits(song), result.task))
            check_told_alike(bench, about(bench, result))
        finish(bench.uploader, result)
        assert check_told_alike(bench, about(bench, result))["status"] == "success"
        check_tidy(bench)
    assert deaths > 25


@ENGINES
def test_uploaders_side_by_side_agree(bench: Bench, song: Song) -> None:
    for turn in range(1, 4):
        first = bench.hand_off(song)
        results = [first, bench.hand_off(other_bits(song), first.task), failed_result(first.task), first]
        together = threading.Barrier(len(results))

        def work(result: SeparationResult, together: threading.Barrier = together) -> TaskState:
            together.wait(20.0)
            return terminal(finish(bench.uploader, result)).status

        with ThreadPoolExecutor(len(results)) as pool:
            states = set(pool.map(work, results))
        told = check_told_alike(bench, bench.receiver.wait_for(turn * len(results))[-len(results) :])
        assert states == {told["status"]}
        assert is_handed_off(bench, first) == [False, False]


class Slow(OutcomeStore):
    """One that is stopped before it decides, until it is told to go on."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.store)
        self.reached, self.go_on = threading.Event(), threading.Event()

    def decide(self, result: SeparationResult, record: OutcomeRecord) -> OutcomeRecord:
        self.reached.set()
        assert self.go_on.wait(20.0)
        return super().decide(result, record)


@pytest.mark.parametrize("bits", ["same", "other"])
def test_an_uploader_that_was_stopped_for_long_tells_what_was_decided_without_it(
    bench: Bench, song: Song, bits: str
) -> None:
    slow = Slow(bench)
    first = bench.hand_off(song)
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(bench.uploader_with(records=slow).handle, first, fresh())
        assert slow.reached.wait(20.0)
        try:
            finish(bench.uploader, bench.hand_off(song if bits == "same" else other_bits(song), first.task))
        finally:
            slow.go_on.set()
        stopped.result()
    assert check_told_alike(bench, bench.receiver.wait_for(2))["status"] == "success"
    check_tidy(bench)


class Overtaken(OutcomeStore):
    """Something happens right after each decision."""

    def __init__(self, bench: Bench, meanwhile: Callable[[], None]) -> None:
        super().__init__(bench.store)
        self._meanwhile = meanwhile

    def decide(self, result: SeparationResult, record: OutcomeRecord) -> OutcomeRecord:
        decided = super().decide(result, record)
        self._meanwhile()
        return decided


def test_what_another_uploader_puts_beside_the_outcome_does_not_get_into_it(bench: Bench, song: Song) -> None:
    """It looked before anything was decided, and is as far as its stems after that."""
    first = bench.hand_off(song)
    second = bench.hand_off(other_bits(song), first.task)

    def stage() -> None:
        publisher = StemPublisher(bench.handoff, bench.store, bench.workdir)
        for stem in first.stems:
            publisher.stage(first, stem, gain=1.0)

    finish(bench.uploader_with(records=Overtaken(bench, stage)), second)
    check_told_alike(bench, bench.receiver.wait_for(1))
    finish(bench.uploader, first)
    check_tidy(bench)


def test_stems_that_were_deleted_since_change_nothing_of_what_is_told(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    finish(bench.uploader, result)
    for path in (bench.folder / "stems").glob("*.wav"):
        path.unlink()
    finish(bench.uploader, result)
    first, second = bench.receiver.wait_for(2)
    assert first.body == second.body


def test_a_record_that_was_damaged_is_nobodys_outcome(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    bench.store.put_new(outcome_key(result.task_uuid, ""), b'{"state":', content_type="application/json")
    error = refused(bench, result)
    assert (type(error), error.code) == (PermanentError, ErrorCode.INTERNAL)
    assert bench.receiver.received == []
