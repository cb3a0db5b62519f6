"""The webhooks of the uploader, and the files behind their links."""

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

from pipeline.errors import CancelledError, ErrorCode, InfrastructureError, TransientError
from pipeline.messages import OutputFormat, SourceAudio, TaskState
from pipeline.storage.local.store import LocalStore
from pipeline.storage.object_keys import stem_key
from tests.uploader.conftest import SECRET, Bench
from tests.uploader.outcomes import (
    Song,
    failed_result,
    failure_of,
    handle,
    is_handed_off,
    local_files,
    new_context,
    published_file,
    samples_of,
    terminal_event,
    webhook_body,
)
from uploader.encode import common_gain
from uploader.publish import StemPublisher

METADATA: dict[str, JsonValue] = {"order": 17, "title": "Gäste", "tags": ["a", None]}


def test_webhook_lists_the_stems(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song, bench.task(metadata=METADATA), degraded=("batch size 1",))
    handle(bench.uploader, result)

    body = webhook_body(bench)
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


def test_stored_stems_match_the_webhook(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    handle(bench.uploader, result)
    for stem in webhook_body(bench)["stems"]:
        file = published_file(bench, result.task_uuid, stem["name"])
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
            "bits": 16,
            "format": "wav",
        }


def test_webhook_is_signed_and_its_id_derives_from_the_task(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    handle(bench.uploader, result)
    (request,) = bench.receiver.wait_for(1)
    Webhook(SECRET).verify(request.body, dict(request.headers))
    assert request.headers["webhook-id"] == f"msg_{result.task_uuid.hex}"


def test_progress_is_sent_and_the_terminal_event_is_settled(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    outcome = handle(bench.uploader, result)
    states = [event.status for event in bench.reported()]
    assert states == [TaskState.UPLOADING, TaskState.UPLOADING, TaskState.NOTIFYING]
    assert (terminal_event(outcome).task_uuid, terminal_event(outcome).status) == (result.task_uuid, TaskState.SUCCESS)
    assert outcome.end == "success"


def test_everything_is_cleaned_up_before_the_job_is_settled(bench: Bench, song: Song) -> None:
    """A settled job is not delivered again, so files that it left would stay."""
    result = bench.hand_off(song)
    handle(bench.uploader, result)
    assert is_handed_off(bench, result) == [False, False]
    assert list(bench.workdir.path.glob("job-*")) == []
    stems = {stem_key(result.task_uuid, name, OutputFormat.WAV) for name in song}
    assert local_files(bench.folder / "stems") == stems | {f"outcomes/{result.task_uuid}.json"}


def test_flac_output(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song, bench.task(output_format=OutputFormat.FLAC))
    handle(bench.uploader, result)
    assert {stem["format"] for stem in webhook_body(bench)["stems"]} == {"flac"}
    file = published_file(bench, result.task_uuid, "vocals", OutputFormat.FLAC)
    assert soundfile.info(io.BytesIO(file)).format == "FLAC"


@pytest.mark.parametrize(
    ("output_format", "extension", "subtype"),
    [("wav", "wav", "PCM_24"), ("flac16", "flac", "PCM_16"), ("flac24", "flac", "PCM_24"), ("wav32f", "wav", "FLOAT")],
)
def test_stems_have_the_requested_depth_or_that_of_the_source(
    bench: Bench, song: Song, output_format: str, extension: str, subtype: str
) -> None:
    requested = OutputFormat(output_format)
    source = SourceAudio(sample_rate=44_100, bits=24)
    loud = {name: 1.5 / np.abs(stem).max() * stem for name, stem in song.items()}
    result = bench.hand_off(loud, bench.task(output_format=requested), source=source)
    handle(bench.uploader, result)

    body = webhook_body(bench)
    for stem in body["stems"]:
        file = published_file(bench, result.task_uuid, stem["name"], requested)
        info = soundfile.info(io.BytesIO(file))
        assert (info.format, info.subtype) == (extension.upper(), subtype)
        bits = 32 if subtype == "FLOAT" else int(subtype[-2:])
        assert (stem["format"], stem["bits"]) == (extension, bits)
        gain = 1.0 if subtype == "FLOAT" else common_gain([1.5], bits)
        wanted = gain * loud[stem["name"]].astype(np.float32)
        np.testing.assert_allclose(soundfile.read(io.BytesIO(file))[0], wanted, atol=0.51 / 2 ** (min(bits, 24) - 1))
    assert len(body["degraded"]) == (0 if subtype == "FLOAT" else 1)  # the note about the gain


def test_dithered_stems_are_the_same_in_a_repeat(bench: Bench, song: Song) -> None:
    task = bench.task()
    files = []
    for dither in (True, True, False):
        publisher = StemPublisher(bench.handoff, bench.store, bench.workdir, dither=dither)
        result = bench.hand_off(song, task)
        stems = [publisher.stage(result, stem, 1.0) for stem in result.stems]
        files.append([(stem.staged.staged, stem.published.sha256) for stem in stems])
    assert files[0] == files[1]
    assert not set(files[0]) & set(files[2])


def test_other_stems_are_only_in_the_list(bench: Bench, song: Song) -> None:
    handle(bench.uploader, bench.hand_off({"vocals": song["vocals"], "drums": song["instrumental"]}))
    body = webhook_body(bench)
    assert [stem["name"] for stem in body["stems"]] == ["vocals", "drums"]
    assert "vocals" in body
    assert "drums" not in body
    assert "instrumental" not in body


def test_stems_that_would_clip_are_attenuated_equally_and_the_gain_is_reported(bench: Bench, song: Song) -> None:
    loud = {"vocals": song["vocals"] * 4, "instrumental": song["instrumental"]}
    result = bench.hand_off(loud)
    handle(bench.uploader, result)
    gain = 32767 / 32768 / float(np.abs(loud["vocals"].astype(np.float32)).max())
    assert webhook_body(bench)["degraded"] == [f"gain {20 * np.log10(gain):.2f} dB on every stem, so that none clips"]
    for name, samples in loud.items():
        found = samples_of(published_file(bench, result.task_uuid, name))
        np.testing.assert_allclose(found / 32768, samples * gain, rtol=0, atol=0.51 / 32768)


def test_failed_task_is_delivered_with_its_reason(bench: Bench) -> None:
    result = failed_result(bench.task(metadata=METADATA))
    outcome = handle(bench.uploader, result)
    body = webhook_body(bench)
    assert isinstance(body.pop("timestamp"), int)
    assert body == {
        "task_uuid": str(result.task_uuid),
        "status": "failed",
        "error_message": "the source answered 404",
        "error": {"code": "source_not_found", "retryable": False},
        "metadata": METADATA,
    }
    assert (terminal_event(outcome).status, terminal_event(outcome).message) == (
        TaskState.FAILED,
        "the source answered 404",
    )
    assert outcome.end == "failed"
    assert [event.status for event in bench.reported()] == [TaskState.NOTIFYING]


def test_result_without_stems_fails_the_task(bench: Bench) -> None:
    handle(bench.uploader, bench.hand_off({}))
    assert webhook_body(bench)["error"]["code"] == "stem_missing"


def test_webhook_retry_uploads_nothing_again(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    bench.receiver.answer(500, 200)
    error = failure_of(bench, result)
    assert (type(error), error.code) == (TransientError, ErrorCode.WEBHOOK_FAILED)
    paths = [bench.folder / "stems" / stem_key(result.task_uuid, name, OutputFormat.WAV) for name in song]
    before = [path.stat().st_ino for path in paths]
    handle(bench.uploader, result)
    assert [path.stat().st_ino for path in paths] == before


def test_upload_goes_on_after_an_outage(bench: Bench, song: Song) -> None:
    """A file is in the place of the working folder."""
    away = bench.workdir.path.rename(bench.folder / "away")
    bench.workdir.path.write_bytes(b"")
    result = bench.hand_off(song)
    run = bench.uploader.begin(result, new_context())
    with pytest.raises(InfrastructureError):
        run.handle()
    assert bench.receiver.received == []
    bench.workdir.path.unlink()
    away.rename(bench.workdir.path)
    run.handle()
    assert webhook_body(bench)["status"] == "success"


class PartlyUnavailableStore(LocalStore):
    """A hand-off store that is unavailable for one key, and records the fetches of the others."""

    def __init__(self, root: Path, unavailable: str) -> None:
        super().__init__(root)
        self.unavailable = unavailable
        self.fetched: list[str] = []

    def get(self, key: str, target: Path) -> None:
        if key == self.unavailable:
            raise InfrastructureError("the store is unavailable", code=ErrorCode.STORAGE_UNAVAILABLE)
        self.fetched.append(key)
        super().get(key, target)


def test_stems_staged_before_an_outage_are_not_staged_again(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    vocals, instrumental = (stem.key for stem in result.stems)
    handoff = PartlyUnavailableStore(bench.folder / "handoff", unavailable=instrumental)
    run = bench.uploader_with(handoff=handoff).begin(result, new_context())
    for _ in range(2):
        with pytest.raises(InfrastructureError):
            run.handle()
    handoff.unavailable = ""
    run.handle()
    assert handoff.fetched == [vocals, instrumental]
    assert [stem["name"] for stem in webhook_body(bench)["stems"]] == ["vocals", "instrumental"]


def test_lost_delivery_sends_no_webhook(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    context = new_context()
    context.cancel.cancel(ErrorCode.DELIVERY_LOST)
    with pytest.raises(CancelledError):
        bench.uploader.begin(result, context).handle()
    assert bench.receiver.received == []
    assert is_handed_off(bench, result) == [True, True]


def test_body_is_ascii_json(bench: Bench, song: Song) -> None:
    handle(bench.uploader, bench.hand_off(song, bench.task(metadata=METADATA)))
    (request,) = bench.receiver.wait_for(1)
    assert json.loads(request.body.decode("ascii"))["metadata"] == METADATA
