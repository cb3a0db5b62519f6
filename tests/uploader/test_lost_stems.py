"""Stems that are lost between processor and uploader: the song is separated again, once."""

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
    check_told_alike,
    finish,
    fresh,
    is_handed_off,
    local_files,
    terminal,
    told,
)

Damage = Callable[[Bench, SeparationResult], None]


def missing(bench: Bench, result: SeparationResult) -> None:
    bench.handoff.delete(result.stems[1].key)


def cut_short(bench: Bench, result: SeparationResult) -> None:
    rewrite(bench, result, lambda content: content[:-1])


def changed(bench: Bench, result: SeparationResult) -> None:
    rewrite(bench, result, lambda content: content[:-1] + bytes([content[-1] ^ 1]))


def rewrite(bench: Bench, result: SeparationResult, change: Callable[[bytes], bytes]) -> None:
    key = result.stems[1].key
    path = bench.folder / "changed.wav"
    path.write_bytes(change(bench.handoff.read(key)))
    bench.handoff.put(key, path, content_type="audio/wav")


@pytest.fixture(params=[missing, cut_short, changed], ids=lambda damage: damage.__name__)
def damage(request: pytest.FixtureRequest) -> Damage:
    found: Damage = request.param
    return found


@ENGINES
def test_the_task_goes_back_to_be_separated_again(bench: Bench, song: Song, damage: Damage) -> None:
    result = bench.hand_off(song, bench.task(metadata={"order": 17}, submitted_at=17.0, priority=5))
    damage(bench, result)
    outcome = bench.uploader.handle(result, fresh())

    (message,) = outcome.outputs
    assert (message.topic, message.key) == (TASKS, str(result.task_uuid))
    again = {"separations": 2, "left_behind": tuple(stem.key for stem in result.stems)}
    assert from_message(SeparationTask, message) == result.task.model_copy(update=again)
    assert outcome.end == "resubmitted"
    assert bench.receiver.received == []
    assert bench.reported()[-1].status is TaskState.QUEUED


def test_the_second_separation_is_what_the_client_is_told_of(bench: Bench, song: Song, damage: Damage) -> None:
    """Of the same bits, as a CPU gives them: its stems lie under the keys of the first."""
    first = bench.hand_off(song)
    damage(bench, first)
    outcome = bench.uploader.handle(first, fresh())
    second = bench.hand_off(song, from_message(SeparationTask, outcome.outputs[0]))
    assert is_handed_off(bench, second) == [True, True]
    finish(bench.uploader, second)
    assert check_told_alike(bench, bench.receiver.wait_for(1))["status"] == "success"
    assert local_files(bench.folder / "handoff") == set()


def test_nothing_of_the_first_separation_is_left_behind(bench: Bench, song: Song, damage: Damage) -> None:
    """Of other bits, as a GPU gives them, under other keys."""
    first = bench.hand_off(song)
    damage(bench, first)
    outcome = bench.uploader.handle(first, fresh())
    task = from_message(SeparationTask, outcome.outputs[0])
    finish(bench.uploader, bench.hand_off({name: samples * 0.5 for name, samples in song.items()}, task))
    assert check_told_alike(bench, bench.receiver.wait_for(1))["status"] == "success"
    assert local_files(bench.folder / "handoff") == set()


def test_the_first_result_comes_again_after_the_second(bench: Bench, song: Song) -> None:
    """The uploader died when the task was stored and the result was not settled."""
    first = bench.hand_off(song)
    missing(bench, first)
    task = from_message(SeparationTask, bench.uploader.handle(first, fresh()).outputs[0])
    changed = {name: samples * 0.5 for name, samples in song.items()}
    finish(bench.uploader, bench.hand_off(changed, task))
    finish(bench.uploader, first)
    assert check_told_alike(bench, bench.receiver.wait_for(2))["status"] == "success"
    assert local_files(bench.folder / "handoff") == set()


def test_a_stem_that_is_lost_again_fails_the_task(bench: Bench, song: Song, damage: Damage) -> None:
    result = bench.hand_off(song, bench.task(separations=2))
    damage(bench, result)
    outcome = bench.uploader.handle(result, fresh())
    body = told(bench)
    assert body["status"] == "failed"
    assert body["error"] == {"code": "handoff_missing", "retryable": False}
    assert "instrumental" in body["error_message"]
    assert (terminal(outcome).status, outcome.end) == (TaskState.FAILED, "failed")
    assert local_files(bench.folder / "handoff") == set()


def test_a_task_whose_outcome_is_decided_is_not_separated_again(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    finish(bench.uploader, result)
    missing(bench, result)
    assert finish(bench.uploader, result).end == "success"
    check_told_alike(bench, bench.receiver.wait_for(2))


class Overtaken(LocalStore):
    """A hand-off store that somebody empties between the first look at the outcome and the first at the stems."""

    def __init__(self, root: Path, meanwhile: Callable[[], object]) -> None:
        super().__init__(root)
        self._meanwhile = [meanwhile]

    def stat(self, key: str) -> StoredObject | None:
        if self._meanwhile:
            self._meanwhile.pop()()
        return super().stat(key)


def test_stems_that_another_uploader_has_tidied_up_are_not_lost(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    handoff = Overtaken(bench.folder / "handoff", meanwhile=lambda: finish(bench.uploader, result))
    outcome = bench.uploader_with(handoff=handoff).handle(result, fresh())
    assert outcome.end == "success"
    assert check_told_alike(bench, bench.receiver.wait_for(2))["status"] == "success"


def test_a_stem_that_is_silent_is_not_lost(bench: Bench) -> None:
    silence = np.zeros((4410, 1))
    finish(bench.uploader, bench.hand_off({"vocals": silence, "instrumental": silence}))
    assert told(bench)["status"] == "success"
