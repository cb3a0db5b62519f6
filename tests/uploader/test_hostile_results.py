"""Forged results: nothing outside the prefixes of their own task is read, copied or deleted."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from pipeline.errors import ErrorCode, PermanentError
from pipeline.messages import OutputFormat, SeparationResult, TaskState, from_message, to_message
from pipeline.storage.object_keys import outcome_key, stem_key
from pipeline.transport.protocol import Message
from tests.uploader.conftest import ENGINES, RESULTS, Bench
from tests.uploader.outcomes import Song, failure_of, handle, is_handed_off, published_file, webhook_body
from uploader.outcome_store import OutcomeRecord, StagedStem


def forged(result: SeparationResult, **fields: Any) -> SeparationResult:
    """Return the result as the uploader reads it after an attacker has changed fields of its JSON."""
    body = {**json.loads(result.model_dump_json()), **fields}
    return from_message(SeparationResult, Message(RESULTS, str(result.task_uuid), json.dumps(body).encode()))


def stems_with_keys_of(result: SeparationResult, other: SeparationResult) -> list[dict[str, Any]]:
    pairs = zip(result.stems, other.stems, strict=True)
    return [{**json.loads(stem.model_dump_json()), "key": victim.key} for stem, victim in pairs]


@ENGINES
def test_hand_off_keys_of_another_task_are_neither_read_nor_deleted(bench: Bench, song: Song) -> None:
    victim, own = bench.hand_off(song), bench.hand_off({name: samples * 0.5 for name, samples in song.items()})
    left_behind = [stem.key for stem in victim.stems]
    task = {**json.loads(own.task.model_dump_json()), "left_behind": left_behind}
    handle(bench.uploader, forged(own, stems=stems_with_keys_of(own, victim), task=task))
    assert webhook_body(bench)["status"] == "success"
    assert is_handed_off(bench, victim) == [True, True]
    assert is_handed_off(bench, own) == [False, False]


def test_stems_of_another_task_are_not_published_for_this_one(bench: Bench, song: Song) -> None:
    """The hashes are those of the victim's stems, but the keys derived from them hold nothing."""
    victim, own = bench.hand_off(song), bench.hand_off({})
    stems = [json.loads(stem.model_dump_json()) for stem in victim.stems]
    outcome = handle(bench.uploader, forged(own, stems=stems))
    assert outcome.end == "resubmitted"
    assert is_handed_off(bench, victim) == [True, True]


@pytest.mark.parametrize("key", ["outcomes/%s.json", "handoff/%s/../x", "handoff/../../%s"])
def test_left_behind_names_no_object_outside_the_task(bench: Bench, song: Song, key: str) -> None:
    result = bench.hand_off(song)
    victim = outcome_key(uuid4(), "")
    bench.handoff.put_new(victim, b"kept", content_type="text/plain")
    task = {**json.loads(result.task.model_dump_json()), "left_behind": [victim, key % result.task_uuid]}
    assert handle(bench.uploader, forged(result, task=task)).end == "success"
    assert bench.handoff.read(victim) == b"kept"


def test_outcome_of_another_task_is_not_decided(bench: Bench, song: Song) -> None:
    victim, own = bench.hand_off(song), bench.hand_off(song)
    with pytest.raises(PermanentError):
        forged(own, task=json.loads(victim.task.model_dump_json()))
    with pytest.raises(PermanentError):
        from_message(SeparationResult, Message(RESULTS, str(own.task_uuid), to_message(RESULTS, victim).value))
    assert bench.uploader.outcomes.find(victim) is None


def test_record_that_copies_the_stems_of_another_task_is_damaged(bench: Bench, song: Song) -> None:
    victim, own = bench.hand_off(song), bench.hand_off(song)
    handle(bench.uploader, victim)
    before = published_file(bench, victim.task_uuid, "vocals")
    target = stem_key(victim.task_uuid, "vocals", OutputFormat.WAV)
    stem = StagedStem(staged=f"staged/{own.task_uuid}_vocals-0.wav", key=target, content_type="audio/wav")
    record = OutcomeRecord(state=TaskState.SUCCESS, body="{}", stems=(stem,))
    bench.store.put_new(outcome_key(own.task_uuid, ""), record.model_dump_json().encode(), content_type="")
    assert failure_of(bench, own).code is ErrorCode.INTERNAL
    assert published_file(bench, victim.task_uuid, "vocals") == before


@pytest.mark.parametrize("sha256", ["", "../../x", "g" * 64, "0" * 63, "A" * 64])
def test_hash_that_is_none_is_unparsable(bench: Bench, song: Song, sha256: str) -> None:
    result = bench.hand_off(song)
    stems = [{**json.loads(stem.model_dump_json()), "sha256": sha256} for stem in result.stems]
    with pytest.raises(PermanentError, match="sha256"):
        forged(result, stems=stems)
