"""What the client is told of its job, and what it finds behind the links."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pydantic import JsonValue
from standardwebhooks import Webhook

from pipeline.consuming.consumer import JobContext
from pipeline.errors import CancelledError, ErrorCode, InfrastructureError, TransientError
from pipeline.messages import OutputFormat, TaskState
from pipeline.storage.local.store import LocalStore
from pipeline.storage.object_keys import stem_key
from tests.uploader.conftest import SECRET, Bench
from tests.uploader.outcomes import (
    Song,
    failed_result,
    fresh,
    is_handed_off,
    local_files,
    refused,
    samples_of,
    stored,
    terminal,
    told,
)

METADATA: dict[str, JsonValue] = {"order": 17, "title": "Gäste", "tags": ["a", None]}


def test_the_client_is_told_where_its_stems_are(bench: Bench, song: Song, context: JobContext) -> None:
    result = bench.hand_off(song, bench.task(metadata=METADATA), degraded=("batch size 1",))
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
        file = stored(bench, result.task_uuid, stem["name"])
        assert f"/files/{stem_key(result.task_uuid, stem['name'], OutputFormat.WAV)}?" in stem.pop("url")
        samples, rate = soundfile.read(io.BytesIO(file), dtype="int16")
        np.testing.assert_array_equal(samples, np.rint(song[stem["name"]].astype(np.float32) * 32768.0))
        assert stem == {
            "name": stem["name"],
            "sha256": hashlib.sha256(file).hexdigest(),
            "bytes": len(file),
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
    assert outcome.end == "success"


def test_all_is_tidied_up_before_the_job_is_settled(bench: Bench, song: Song, context: JobContext) -> None:
    """Of a settled job that left something, nobody would hear again."""
    result = bench.hand_off(song)
    bench.uploader.handle(result, context)
    assert is_handed_off(bench, result) == [False, False]
    assert list(bench.workdir.path.glob("job-*")) == []
    stems = {stem_key(result.task_uuid, name, OutputFormat.WAV) for name in song}
    assert local_files(bench.folder / "stems") == stems | {f"outcomes/{result.task_uuid}.json"}


def test_flac_is_flac(bench: Bench, song: Song, context: JobContext) -> None:
    result = bench.hand_off(song, bench.task(output_format=OutputFormat.FLAC))
    bench.uploader.handle(result, context)
    assert {stem["format"] for stem in told(bench)["stems"]} == {"flac"}
    file = stored(bench, result.task_uuid, "vocals", OutputFormat.FLAC)
    assert soundfile.info(io.BytesIO(file)).format == "FLAC"


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
        found = samples_of(stored(bench, result.task_uuid, name))
        np.testing.assert_allclose(found / 32768, samples * gain, rtol=0, atol=0.51 / 32768)


def test_a_failed_task_is_told_with_its_reason(bench: Bench, context: JobContext) -> None:
    result = failed_result(bench.task(metadata=METADATA))
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
    assert (terminal(outcome).status, terminal(outcome).message) == (TaskState.FAILED, "the source answered 404")
    assert outcome.end == "failed"
    assert [event.status for event in bench.reported()] == [TaskState.NOTIFYING]


def test_a_result_without_stems_fails_the_task(bench: Bench, context: JobContext) -> None:
    bench.uploader.handle(bench.hand_off({}), context)
    assert told(bench)["error"]["code"] == "stem_missing"


def test_trying_the_webhook_again_uploads_nothing_again(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    bench.receiver.answer(500, 200)
    error = refused(bench, result)
    assert (type(error), error.code) == (TransientError, ErrorCode.WEBHOOK_FAILED)
    paths = [bench.folder / "stems" / stem_key(result.task_uuid, name, OutputFormat.WAV) for name in song]
    before = [path.stat().st_ino for path in paths]
    bench.uploader.handle(result, fresh())
    assert [path.stat().st_ino for path in paths] == before


def test_after_an_outage_the_upload_goes_on(bench: Bench, song: Song, context: JobContext) -> None:
    """A file stands where the folder of working files should be."""
    away = bench.workdir.path.rename(bench.folder / "away")
    bench.workdir.path.write_bytes(b"")
    result = bench.hand_off(song)
    assert isinstance(refused(bench, result, context), InfrastructureError)
    assert bench.receiver.received == []
    bench.workdir.path.unlink()
    away.rename(bench.workdir.path)
    bench.uploader.handle(result, context)
    assert told(bench)["status"] == "success"


class HalfAway(LocalStore):
    """A hand-off store that cannot be reached for one stem, and counts what is fetched of the others."""

    def __init__(self, root: Path, away: str) -> None:
        super().__init__(root)
        self.away = away
        self.fetched: list[str] = []

    def get(self, key: str, target: Path) -> None:
        if key == self.away:
            raise InfrastructureError("the store is away", code=ErrorCode.STORAGE_UNAVAILABLE)
        self.fetched.append(key)
        super().get(key, target)


def test_what_was_uploaded_before_an_outage_is_not_uploaded_again(
    bench: Bench, song: Song, context: JobContext
) -> None:
    result = bench.hand_off(song)
    vocals, instrumental = (stem.key for stem in result.stems)
    handoff = HalfAway(bench.folder / "handoff", away=instrumental)
    uploader = bench.uploader_with(handoff=handoff)
    for _ in range(2):
        with pytest.raises(InfrastructureError):
            uploader.handle(result, context)
    handoff.away = ""
    uploader.handle(result, context)
    assert handoff.fetched == [vocals, instrumental]
    assert [stem["name"] for stem in told(bench)["stems"]] == ["vocals", "instrumental"]


def test_a_job_that_belongs_to_another_tells_nobody(bench: Bench, song: Song, context: JobContext) -> None:
    result = bench.hand_off(song)
    context.cancel.cancel(ErrorCode.DELIVERY_LOST)
    with pytest.raises(CancelledError):
        bench.uploader.handle(result, context)
    assert bench.receiver.received == []
    assert is_handed_off(bench, result) == [True, True]


def test_the_body_is_json_in_ascii(bench: Bench, song: Song, context: JobContext) -> None:
    bench.uploader.handle(bench.hand_off(song, bench.task(metadata=METADATA)), context)
    (request,) = bench.receiver.wait_for(1)
    assert json.loads(request.body.decode("ascii"))["metadata"] == METADATA
