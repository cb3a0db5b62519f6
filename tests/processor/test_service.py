"""Tasks from the topic to the hand-off store, with a real source, a real consumer loop and a real child."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import soundfile
import soxr

from demo.centre_model import DEMO_MODEL_NAME
from pipeline.errors import ErrorCode, ErrorKind
from pipeline.messages import OutputFormat, SeparationResult, SourceAudio, StemRate, TaskState, from_message
from pipeline.service.metrics import REGISTRY
from pipeline.storage.object_keys import handoff_key
from processor.workers.supervisor import WorkerSupervisor
from tests.processor.pipeline_harness import RESULTS, RunningProcessor, running_processor
from tests.processor.source_files import RATE, noise, write_av, write_pcm
from tests.processor.worker_threads import eventually
from tests.support.source_server import Behaviour, SourceServer, answer, content, reset_after, sequence

pytestmark = pytest.mark.slow


@pytest.fixture
def processor(tmp_path: Path, warm: WorkerSupervisor) -> Iterator[RunningProcessor]:
    with running_processor(tmp_path, warm) as running:
        yield running


@pytest.fixture
def source() -> Iterator[SourceServer]:
    with SourceServer() as server:
        yield server


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("song")
    return write_pcm(folder / "song.flac", noise(2.0, peak=0.4), subtype="PCM_24").read_bytes()


def test_song_becomes_stems_in_the_hand_off(processor: RunningProcessor, source: SourceServer, song: bytes) -> None:
    source.serve_bytes("/song", song)
    result = processor.separate(source.url("/song"), metadata={"ours": [1]}, output_format=OutputFormat.FLAC)

    assert (result.status, result.error, result.degraded) == ("success", None, ())
    fields = (result.task.hook_url, result.task.metadata, result.task.output_format)
    assert fields == ("http://client/hook", {"ours": [1]}, "flac")
    assert (result.model, result.device) == (DEMO_MODEL_NAME, "cpu")
    assert list(result.timings) == ["wait", "download", "decode", "separate", "handoff"]
    assert {stem.name for stem in result.stems} == {"vocals", "instrumental"}
    total = np.zeros((2 * RATE, 2))
    for stem in result.stems:
        assert stem.key == handoff_key(result.task_uuid, "", stem.name, stem.sha256)
        path = processor.handoff.path_of(stem.key)
        assert path is not None
        data = path.read_bytes()
        assert (stem.bytes, stem.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        samples, rate = soundfile.read(path)
        assert (stem.duration, stem.sample_rate, stem.channels) == (2.0, rate, 2)
        assert stem.peak == np.max(np.abs(samples))
        total += samples
    np.testing.assert_allclose(total.T, noise(2.0, peak=0.4), atol=1e-5)
    states = [event.status for event in processor.events()]
    assert list(dict.fromkeys(states)) == [TaskState.DOWNLOADING, TaskState.SEPARATING]


@pytest.mark.parametrize(
    ("wanted", "rate", "frames"), [("source", 48_000, 96_001), (44_100, 44_100, 88_201), (48_000, 48_000, 96_001)]
)
def test_stems_have_the_rate_and_the_length_of_their_source(
    processor: RunningProcessor, source: SourceServer, tmp_path: Path, wanted: StemRate, rate: int, frames: int
) -> None:
    """They are aligned with it to the sample, and sum to it."""
    truth = noise(96_001 / 48_000, rate=48_000, peak=0.4)
    source.serve_bytes("/song", write_pcm(tmp_path / "song.flac", truth, rate=48_000, subtype="PCM_24").read_bytes())
    result = processor.separate(source.url("/song"), sample_rate=wanted)

    assert result.source == SourceAudio(sample_rate=48_000, bits=24)
    total = np.zeros((frames, 2))
    for stem in result.stems:
        path = processor.handoff.path_of(stem.key)
        assert path is not None
        samples, found = soundfile.read(path, dtype="float32")
        assert (found, stem.sample_rate, stem.duration) == (rate, rate, frames / rate)
        assert stem.peak == np.max(np.abs(samples))
        assert stem.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        total += samples
    expected = truth.T if rate == 48_000 else soxr.resample(truth.T, 48_000, rate, "VHQ")
    middle = slice(1_000, -1_000)  # the source ends abruptly, with frequencies that 44.1 kHz does not have
    np.testing.assert_allclose(total[middle], expected[middle], atol=1e-5)


def test_source_far_above_the_rate_of_players_gives_stems_at_192_khz(
    processor: RunningProcessor, source: SourceServer, tmp_path: Path
) -> None:
    song = write_pcm(tmp_path / "song.wav", noise(0.25, rate=384_000), rate=384_000)
    source.serve_bytes("/song", song.read_bytes())
    result = processor.separate(source.url("/song"), stems=("vocals",))
    assert [(stem.sample_rate, stem.duration) for stem in result.stems] == [(192_000, 0.25)]


def test_redelivered_task_gives_the_same_stems(processor: RunningProcessor, source: SourceServer, song: bytes) -> None:
    source.serve_bytes("/song", song)
    task_uuid = uuid4()
    first, second = (processor.separate(source.url("/song"), task_uuid) for _ in range(2))
    assert first.stems == second.stems
    assert processor.stem_files() == {stem.key for stem in first.stems}


def test_down_mix_is_reported(processor: RunningProcessor, source: SourceServer, tmp_path: Path) -> None:
    surround = write_av(tmp_path / "song.flac", noise(0.5, channels=6), "flac", "flac", layout="5.1")
    source.serve_bytes("/song", surround.read_bytes())
    assert processor.separate(source.url("/song"), stems=("vocals",)).degraded == (
        "down-mixed from 6 channels to stereo",
    )
    assert len(processor.stem_files()) == 1


def test_song_of_a_tenth_of_a_second(processor: RunningProcessor, source: SourceServer, tmp_path: Path) -> None:
    source.serve_bytes("/song", write_pcm(tmp_path / "song.wav", noise(0.1)).read_bytes())
    result = processor.separate(source.url("/song"))
    assert [stem.duration for stem in result.stems] == [0.1, 0.1]


@pytest.mark.parametrize(
    "fault", [answer(503), answer(503, {"Retry-After": "0"}), answer(429), lambda exchange: exchange.reset()]
)
def test_temporary_fault_is_retried(
    processor: RunningProcessor, source: SourceServer, song: bytes, fault: Behaviour
) -> None:
    source.add("/song", sequence(fault, content(song)))
    assert processor.separate(source.url("/song")).status == "success"
    assert source.connections == 2


def test_interrupted_download_is_retried(processor: RunningProcessor, source: SourceServer, song: bytes) -> None:
    source.add("/song", sequence(reset_after(song, 10_000), reset_after(song, len(song) - 1), content(song)))
    assert processor.separate(source.url("/song")).status == "success"
    assert source.connections == 3


def failure_of(result: SeparationResult) -> tuple[str, str]:
    """Check that the result contains only a failure, and return its kind and code."""
    assert (result.status, result.stems, result.model) == ("failed", (), None)
    assert result.error is not None
    assert result.error.message
    assert result.error.retryable == (result.error.kind is not ErrorKind.PERMANENT)
    return result.error.kind, result.error.code


@pytest.mark.parametrize("status", [404, 410])
def test_missing_source_fails_at_once(processor: RunningProcessor, source: SourceServer, status: int) -> None:
    source.add("/song", answer(status))
    result = processor.separate(source.url("/song"), metadata={"ours": 1})
    assert failure_of(result) == (ErrorKind.PERMANENT, ErrorCode.SOURCE_NOT_FOUND)
    assert (result.task.hook_url, result.task.metadata) == ("http://client/hook", {"ours": 1})
    assert source.connections == 1


def test_permanent_outage_of_the_source_fails_the_task(processor: RunningProcessor, source: SourceServer) -> None:
    source.add("/song", answer(503))
    assert failure_of(processor.separate(source.url("/song"))) == (ErrorKind.TRANSIENT, ErrorCode.SOURCE_UNAVAILABLE)
    assert source.connections == 3


@pytest.mark.parametrize(
    ("served", "code"),
    [
        (lambda song, folder: b"<html><body>Please sign in</body></html>" * 100, ErrorCode.SOURCE_IS_WEB_PAGE),
        (lambda song, folder: b"", ErrorCode.AUDIO_EMPTY),
        (lambda song, folder: song[: len(song) // 2], ErrorCode.AUDIO_CORRUPT),
        (
            lambda song, folder: write_pcm(folder / "a.wav", np.zeros((2, 0), np.float32)).read_bytes(),
            ErrorCode.AUDIO_EMPTY,
        ),
        (lambda song, folder: write_pcm(folder / "a.flac", noise(21.0)).read_bytes(), ErrorCode.AUDIO_TOO_LONG),
        (lambda song, folder: bytes(10_000_001), ErrorCode.SOURCE_TOO_LARGE),
    ],
)
def test_unusable_file_fails_at_once(
    processor: RunningProcessor,
    source: SourceServer,
    song: bytes,
    tmp_path: Path,
    served: Callable[[bytes, Path], bytes],
    code: ErrorCode,
) -> None:
    source.serve_bytes("/song", served(song, tmp_path))
    assert failure_of(processor.separate(source.url("/song"))) == (ErrorKind.PERMANENT, code)
    assert source.connections == 1
    assert processor.stem_files() == set()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"stems": ("kazoo",)}, ErrorCode.STEM_UNKNOWN),
        ({"model": "no-such-model.onnx"}, ErrorCode.MODEL_UNKNOWN),
    ],
)
def test_impossible_request_fails_at_once(
    processor: RunningProcessor, source: SourceServer, song: bytes, fields: dict[str, Any], code: ErrorCode
) -> None:
    source.serve_bytes("/song", song)
    assert failure_of(processor.separate(source.url("/song"), **fields)) == (ErrorKind.PERMANENT, code)


def failures() -> float:
    """Return the number of tries that have failed because of the store."""
    labels = {"kind": ErrorKind.INFRASTRUCTURE.value, "code": ErrorCode.STORAGE_UNAVAILABLE.value}
    return REGISTRY.get_sample_value("uvr_failures_total", labels) or 0.0


def test_job_waits_for_an_unavailable_hand_off(processor: RunningProcessor, source: SourceServer, song: bytes) -> None:
    """The job neither fails nor spends an attempt, and is not fetched and separated again."""
    (processor.root / "handoff").write_text("a file in place of the folder")
    source.serve_bytes("/song", song)
    before = failures()
    task = processor.send(source.url("/song"))
    eventually(lambda: failures() >= before + 5)
    (processor.root / "handoff").unlink()
    result = from_message(SeparationResult, processor.next_message(RESULTS))
    assert (result.task_uuid, result.status) == (task, "success")
    assert source.connections == 1
