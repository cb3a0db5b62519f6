from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import soundfile
from pydantic import JsonValue
from standardwebhooks import Webhook

from pipeline.consumer import JobContext, Outcome
from pipeline.errors import (
    CancelledError,
    ErrorCode,
    ErrorKind,
    InfrastructureError,
    PipelineError,
    PoisonError,
    TransientError,
)
from pipeline.messages import Failure, OutputFormat, SeparationResult, TaskEvent, TaskState, from_message
from pipeline.storage.keys import stem_key
from tests.uploader.conftest import DEAD_LETTERS, EVENTS, RESULTS, SECRET, Bench

Song = dict[str, np.ndarray]
METADATA: dict[str, JsonValue] = {"order": 17, "title": "Gäste", "tags": ["a", None]}
POISON = PoisonError("the job ended its worker too often", code=ErrorCode.WORKER_DIED)


def told(bench: Bench, count: int = 1) -> Any:
    """The body of the last of ``count`` webhooks."""
    return bench.receiver.wait_for(count)[-1].json


def terminal(outcome: Outcome) -> TaskEvent:
    """The event that is settled with the job."""
    return from_message(TaskEvent, next(message for message in outcome.outputs if message.topic == EVENTS))


def settle(outcome: Outcome) -> None:
    if outcome.after_settled is not None:
        outcome.after_settled()


def is_handed_off(bench: Bench, result: SeparationResult) -> list[bool]:
    return [bench.handoff.stat(stem.key) is not None for stem in result.stems]


def failed_result(bench: Bench) -> SeparationResult:
    failure = Failure(
        code=ErrorCode.SOURCE_NOT_FOUND, kind=ErrorKind.PERMANENT, message="the source answered 404", retryable=False
    )
    return SeparationResult(
        task_uuid=uuid4(), status="failed", hook_url=bench.receiver.url, error=failure, metadata=METADATA
    )


def refused(bench: Bench, result: SeparationResult, context: JobContext) -> PipelineError:
    with pytest.raises(PipelineError) as caught:
        bench.uploader.handle(result, context)
    return caught.value


def test_the_client_is_told_where_its_stems_are(bench: Bench, song: Song, context: JobContext) -> None:
    result = bench.hand_off(song, metadata=METADATA, degraded=("batch size 1",))
    bench.uploader.handle(result, context)

    body = told(bench)
    links = {stem["name"]: stem["url"] for stem in body["stems"]}
    assert body.keys() == {
        *("task_uuid", "status", "timestamp", "vocals", "instrumental"),
        *("stems", "model", "device", "timings", "degraded", "metadata"),
    }
    assert (body["task_uuid"], body["status"]) == (str(result.task_uuid), "success")
    assert isinstance(body["timestamp"], int)
    assert {"vocals": body["vocals"], "instrumental": body["instrumental"]} == links
    assert (body["model"], body["device"], body["metadata"]) == ("demo.onnx", "cpu", METADATA)
    assert body["degraded"] == ["batch size 1"]
    assert body["timings"].keys() == {"separate", "upload"}


def test_the_stems_are_stored_as_described(bench: Bench, song: Song, context: JobContext) -> None:
    result = bench.hand_off(song)
    bench.uploader.handle(result, context)
    for stem in told(bench)["stems"]:
        path = bench.store.path_of(stem_key(result.task_uuid, stem["name"], OutputFormat.WAV))
        assert path is not None
        assert f"/files/{path.name}?" in stem.pop("url")
        samples, rate = soundfile.read(path, dtype="int16")
        np.testing.assert_array_equal(samples, np.rint(song[stem["name"]].astype(np.float32) * 32768.0))
        assert stem == {
            "name": stem["name"],
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
            "duration": 0.1,
            "sample_rate": rate,
            "channels": 2,
            "format": "wav",
        }


def test_the_webhook_is_signed_and_its_id_belongs_to_the_task(bench: Bench, song: Song, context: JobContext) -> None:
    result = bench.hand_off(song)
    bench.uploader.handle(result, context)
    (request,) = bench.receiver.wait_for(1)
    Webhook(SECRET).verify(request.body, dict(request.headers))
    assert request.headers["webhook-id"] == f"msg_{result.task_uuid.hex}"


def test_progress_is_reported_and_the_end_is_settled(bench: Bench, song: Song, context: JobContext) -> None:
    result = bench.hand_off(song)
    outcome = bench.uploader.handle(result, context)
    states = [event.status for event in bench.reported()]
    assert states == [TaskState.UPLOADING, TaskState.UPLOADING, TaskState.NOTIFYING]
    assert (terminal(outcome).task_uuid, terminal(outcome).status) == (result.task_uuid, TaskState.SUCCESS)


def test_the_hand_off_is_tidied_up_only_after_the_job_is_settled(bench: Bench, song: Song, context: JobContext) -> None:
    result = bench.hand_off(song)
    outcome = bench.uploader.handle(result, context)
    assert is_handed_off(bench, result) == [True, True]
    settle(outcome)
    assert is_handed_off(bench, result) == [False, False]
    assert list(bench.workdir.path.glob("job-*")) == []


def test_flac_is_flac(bench: Bench, song: Song, context: JobContext) -> None:
    result = bench.hand_off(song, output_format=OutputFormat.FLAC)
    bench.uploader.handle(result, context)
    assert {stem["format"] for stem in told(bench)["stems"]} == {"flac"}
    path = bench.store.path_of(stem_key(result.task_uuid, "vocals", OutputFormat.FLAC))
    assert path is not None
    assert soundfile.info(path).format == "FLAC"


def test_other_stems_stand_in_the_list_only(bench: Bench, song: Song, context: JobContext) -> None:
    bench.uploader.handle(bench.hand_off({"vocals": song["vocals"], "drums": song["instrumental"]}), context)
    body = told(bench)
    assert [stem["name"] for stem in body["stems"]] == ["vocals", "drums"]
    assert "vocals" in body
    assert "drums" not in body
    assert "instrumental" not in body


def test_stems_that_would_clip_are_turned_down_alike_and_that_is_told(
    bench: Bench, song: Song, context: JobContext
) -> None:
    loud = {"vocals": song["vocals"] * 4, "instrumental": song["instrumental"]}
    result = bench.hand_off(loud)
    bench.uploader.handle(result, context)
    gain = 32767 / 32768 / float(np.abs(loud["vocals"].astype(np.float32)).max())
    assert told(bench)["degraded"] == [f"gain {20 * np.log10(gain):.2f} dB on every stem, so that none clips"]
    for name, samples in loud.items():
        path = bench.store.path_of(stem_key(result.task_uuid, name, OutputFormat.WAV))
        assert path is not None
        stored, _ = soundfile.read(path, dtype="int16")
        np.testing.assert_allclose(stored / 32768, samples * gain, rtol=0, atol=0.51 / 32768)


def test_a_failed_task_is_told_with_its_reason(bench: Bench, context: JobContext) -> None:
    result = failed_result(bench)
    outcome = bench.uploader.handle(result, context)
    body = told(bench)
    assert isinstance(body.pop("timestamp"), int)
    assert body == {
        "task_uuid": str(result.task_uuid),
        "status": "failed",
        "error_message": "the source answered 404",
        "error": {"code": "source_not_found", "retryable": False},
        "metadata": METADATA,
    }
    assert terminal(outcome).status is TaskState.FAILED
    assert terminal(outcome).message == "the source answered 404"
    assert [event.status for event in bench.reported()] == [TaskState.NOTIFYING]


def test_trying_the_webhook_again_uploads_nothing_again(bench: Bench, song: Song, context: JobContext) -> None:
    result = bench.hand_off(song)
    bench.receiver.answer(500, 200)
    error = refused(bench, result, context)
    assert (type(error), error.code) == (TransientError, ErrorCode.WEBHOOK_FAILED)
    paths = [bench.store.path_of(stem_key(result.task_uuid, name, OutputFormat.WAV)) for name in song]
    before = [path.stat().st_ino for path in paths if path is not None]

    bench.uploader.handle(result, context)

    assert [path.stat().st_ino for path in paths if path is not None] == before
    first, second = bench.receiver.wait_for(2)
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


def test_after_an_outage_the_upload_goes_on(bench: Bench, song: Song, context: JobContext) -> None:
    """A file stands where the folder of working files should be."""
    away = bench.workdir.path.rename(bench.folder / "away")
    bench.workdir.path.write_bytes(b"")
    result = bench.hand_off(song)
    error = refused(bench, result, context)
    assert isinstance(error, InfrastructureError)
    assert bench.receiver.received == []
    bench.workdir.path.unlink()
    away.rename(bench.workdir.path)
    bench.uploader.handle(result, context)
    assert told(bench)["status"] == "success"


def test_what_was_uploaded_before_the_outage_is_not_uploaded_again(
    bench: Bench, song: Song, context: JobContext
) -> None:
    """The second stem lies behind a symbolic link that leads to itself, which no read survives."""
    result = bench.hand_off(song)
    second = bench.handoff.path_of(result.stems[1].key)
    assert second is not None
    content = second.read_bytes()
    second.unlink()
    second.symlink_to(second.name)
    assert isinstance(refused(bench, result, context), InfrastructureError)
    first = bench.store.path_of(stem_key(result.task_uuid, "vocals", OutputFormat.WAV))
    assert first is not None
    before = first.stat().st_ino

    second.unlink()
    second.write_bytes(content)
    bench.uploader.handle(result, context)

    assert first.stat().st_ino == before
    assert [stem["name"] for stem in told(bench)["stems"]] == ["vocals", "instrumental"]


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_stem_that_was_lost_on_the_way_fails_the_task(
    bench: Bench, song: Song, context: JobContext, tmp_path: Path, damage: str
) -> None:
    result = bench.hand_off(song)
    if damage == "missing":
        bench.handoff.delete(result.stems[1].key)
    else:
        (tmp_path / "other").write_bytes(b"other bytes")
        bench.handoff.put(result.stems[1].key, tmp_path / "other", content_type="audio/wav")

    outcome = bench.uploader.handle(result, context)

    body = told(bench)
    assert body["status"] == "failed"
    assert body["error"] == {"code": "handoff_missing", "retryable": False}
    assert "instrumental" in body["error_message"]
    assert terminal(outcome).status is TaskState.FAILED


def test_a_result_without_stems_fails_the_task(bench: Bench, context: JobContext) -> None:
    bench.uploader.handle(bench.hand_off({}), context)
    assert told(bench)["error"]["code"] == "stem_missing"


def test_a_repeat_after_everything_is_done_tells_the_same(bench: Bench, song: Song, context: JobContext) -> None:
    """The crash between settling and the end, a result that came twice, a replayed dead letter."""
    result = bench.hand_off(song)
    settle(bench.uploader.handle(result, context))
    settle(bench.uploader.handle(result, context))
    first, second = bench.receiver.wait_for(2)
    described = [
        {stem["name"]: (stem["sha256"], stem["bytes"]) for stem in request.json["stems"]} for request in (first, second)
    ]
    assert described[0] == described[1]
    assert second.json["status"] == "success"
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


def test_another_result_for_the_task_is_not_taken_for_the_first(bench: Bench, song: Song, context: JobContext) -> None:
    """The processor died after its result was stored: it separated again, and not to the same bits."""
    first = bench.hand_off(song)
    bench.receiver.answer(500, 200)
    refused(bench, first, context)
    changed = {name: samples * 0.5 for name, samples in song.items()}
    second = bench.hand_off(changed, task_uuid=first.task_uuid)
    bench.uploader.handle(second, context)
    path = bench.store.path_of(stem_key(first.task_uuid, "vocals", OutputFormat.WAV))
    assert path is not None
    samples, _ = soundfile.read(path)
    np.testing.assert_allclose(samples, changed["vocals"], rtol=0, atol=1 / 32768)


@pytest.mark.parametrize("error", [(500, ErrorCode.WEBHOOK_FAILED), (410, ErrorCode.WEBHOOK_GONE)])
def test_a_webhook_that_failed_for_good_is_a_dead_letter_and_loses_nothing(
    bench: Bench, song: Song, context: JobContext, error: tuple[int, ErrorCode]
) -> None:
    status, code = error
    bench.receiver.answer(status)
    result = bench.hand_off(song)
    outcome = bench.uploader.on_failure(result, refused(bench, result, context))

    event, letter = outcome.outputs
    assert (terminal(outcome).status, event.topic) == (TaskState.SUCCESS, EVENTS)
    assert (letter.topic, letter.key) == (DEAD_LETTERS, str(result.task_uuid))
    assert from_message(SeparationResult, letter) == result
    assert letter.headers["original-topic"] == RESULTS.encode()
    assert letter.headers["error-code"] == code.value.encode()
    assert is_handed_off(bench, result) == [True, True]
    settle(outcome)
    assert is_handed_off(bench, result) == [False, False]

    bench.receiver.answer(200)
    bench.uploader.handle(from_message(SeparationResult, letter), context)
    assert told(bench, 2)["status"] == "success"


def test_a_result_that_kills_the_uploader_still_fails_the_task(bench: Bench, song: Song, context: JobContext) -> None:
    result = bench.hand_off(song, metadata=METADATA)
    outcome = bench.uploader.on_failure(result, POISON)
    (message,) = outcome.outputs
    settle(outcome)
    assert message.topic == RESULTS
    assert is_handed_off(bench, result) == [True, True]

    bench.uploader.handle(from_message(SeparationResult, message), context)
    body = told(bench)
    assert (body["task_uuid"], body["status"], body["metadata"]) == (str(result.task_uuid), "failed", METADATA)
    assert body["error"]["code"] == "worker_died"


def test_a_failed_result_that_kills_the_uploader_does_not_go_round(bench: Bench) -> None:
    outcome = bench.uploader.on_failure(failed_result(bench), POISON)
    assert [message.topic for message in outcome.outputs] == [EVENTS]
    assert terminal(outcome).status is TaskState.FAILED


def test_a_job_that_belongs_to_another_tells_nobody(bench: Bench, song: Song, context: JobContext) -> None:
    result = bench.hand_off(song)
    context.cancel.cancel(ErrorCode.DELIVERY_LOST)
    with pytest.raises(CancelledError):
        bench.uploader.handle(result, context)
    assert bench.receiver.received == []
    assert is_handed_off(bench, result) == [True, True]


def test_the_body_is_json_in_ascii(bench: Bench, song: Song, context: JobContext) -> None:
    bench.uploader.handle(bench.hand_off(song, metadata=METADATA), context)
    (request,) = bench.receiver.wait_for(1)
    assert json.loads(request.body.decode("ascii"))["metadata"] == METADATA
