"""Stems that are lost between processor and uploader: the song is separated a second time, but not a third."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.messages import SeparationResult, SeparationTask, TaskState, from_message
from pipeline.storage import StoredObject
from pipeline.storage.local.store import LocalStore
from tests.uploader.conftest import ENGINES, TASKS, Bench
from tests.uploader.outcomes import (
    Song,
    check_same_outcome,
    handle,
    is_handed_off,
    local_files,
    terminal_event,
    webhook_body,
)

Damage = Callable[[Bench, SeparationResult], None]


def missing(bench: Bench, result: SeparationResult) -> None:
    bench.handoff.delete(result.stems[1].key)


def truncated(bench: Bench, result: SeparationResult) -> None:
    overwrite(bench, result, lambda content: content[:-1])


def changed(bench: Bench, result: SeparationResult) -> None:
    overwrite(bench, result, lambda content: content[:-1] + bytes([content[-1] ^ 1]))


def overwrite(bench: Bench, result: SeparationResult, change: Callable[[bytes], bytes]) -> None:
    key = result.stems[1].key
    path = bench.folder / "changed.wav"
    path.write_bytes(change(bench.handoff.read(key)))
    bench.handoff.put(key, path, content_type="audio/wav")


@pytest.fixture(params=[missing, truncated, changed], ids=lambda damage: damage.__name__)
def damage(request: pytest.FixtureRequest) -> Damage:
    found: Damage = request.param
    return found


@ENGINES
def test_task_is_resubmitted(bench: Bench, song: Song, damage: Damage) -> None:
    result = bench.hand_off(song, bench.task(metadata={"order": 17}, submitted_at=17.0, priority=5))
    damage(bench, result)
    outcome = handle(bench.uploader, result)

    (message,) = outcome.outputs
    assert (message.topic, message.key) == (TASKS, str(result.task_uuid))
    again = {"separations": 2, "left_behind": tuple(stem.key for stem in result.stems)}
    assert from_message(SeparationTask, message) == result.task.model_copy(update=again)
    assert outcome.end == "resubmitted"
    assert bench.receiver.received == []
    assert bench.reported()[-1].status is TaskState.QUEUED


def test_client_receives_the_second_separation(bench: Bench, song: Song, damage: Damage) -> None:
    """The second separation has the same bits, as on a CPU, so its stems have the keys of the first."""
    first = bench.hand_off(song)
    damage(bench, first)
    outcome = handle(bench.uploader, first)
    second = bench.hand_off(song, from_message(SeparationTask, outcome.outputs[0]))
    assert is_handed_off(bench, second) == [True, True]
    handle(bench.uploader, second)
    assert check_same_outcome(bench, bench.receiver.wait_for(1))["status"] == "success"
    assert local_files(bench.folder / "handoff") == set()


def test_stems_of_the_first_separation_are_deleted(bench: Bench, song: Song, damage: Damage) -> None:
    """The second separation has other bits, as on a GPU, so its stems have other keys."""
    first = bench.hand_off(song)
    damage(bench, first)
    outcome = handle(bench.uploader, first)
    task = from_message(SeparationTask, outcome.outputs[0])
    handle(bench.uploader, bench.hand_off({name: samples * 0.5 for name, samples in song.items()}, task))
    assert check_same_outcome(bench, bench.receiver.wait_for(1))["status"] == "success"
    assert local_files(bench.folder / "handoff") == set()


def test_first_result_is_redelivered_after_the_second(bench: Bench, song: Song) -> None:
    """The uploader crashed after the task was resubmitted and before the result was settled."""
    first = bench.hand_off(song)
    missing(bench, first)
    task = from_message(SeparationTask, handle(bench.uploader, first).outputs[0])
    changed = {name: samples * 0.5 for name, samples in song.items()}
    handle(bench.uploader, bench.hand_off(changed, task))
    handle(bench.uploader, first)
    assert check_same_outcome(bench, bench.receiver.wait_for(2))["status"] == "success"
    assert local_files(bench.folder / "handoff") == set()


def test_stem_that_is_lost_twice_fails_the_task(bench: Bench, song: Song, damage: Damage) -> None:
    result = bench.hand_off(song, bench.task(separations=2))
    damage(bench, result)
    outcome = handle(bench.uploader, result)
    body = webhook_body(bench)
    assert body["status"] == "failed"
    assert body["error"] == {"code": "handoff_missing", "retryable": False}
    assert "instrumental" in body["error_message"]
    assert (terminal_event(outcome).status, outcome.end) == (TaskState.FAILED, "failed")
    assert local_files(bench.folder / "handoff") == set()


def test_task_with_a_decided_outcome_is_not_resubmitted(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    handle(bench.uploader, result)
    missing(bench, result)
    assert handle(bench.uploader, result).end == "success"
    check_same_outcome(bench, bench.receiver.wait_for(2))


class ConcurrentlyEmptiedStore(LocalStore):
    """A hand-off store that is emptied after the uploader has read the outcome and before it reads the stems."""

    def __init__(self, root: Path, meanwhile: Callable[[], object]) -> None:
        super().__init__(root)
        self._meanwhile = [meanwhile]

    def stat(self, key: str) -> StoredObject | None:
        if self._meanwhile:
            self._meanwhile.pop()()
        return super().stat(key)


def test_stems_that_another_uploader_cleaned_up_are_not_lost(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    handoff = ConcurrentlyEmptiedStore(bench.folder / "handoff", meanwhile=lambda: handle(bench.uploader, result))
    outcome = handle(bench.uploader_with(handoff=handoff), result)
    assert outcome.end == "success"
    assert check_same_outcome(bench, bench.receiver.wait_for(2))["status"] == "success"


def test_silent_stem_is_not_lost(bench: Bench) -> None:
    silence = np.zeros((4410, 1))
    handle(bench.uploader, bench.hand_off({"vocals": silence, "instrumental": silence}))
    assert webhook_body(bench)["status"] == "success"
