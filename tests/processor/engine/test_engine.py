"""The engine writes audio-separator's own stems at the song's level, or reports an error."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile

from demo.centre_model import DEMO_MODEL_NAME
from demo.model_folder import install_mdx_model, model_hash
from demo.sdr import sdr_db
from demo.song import Song, render_song
from pipeline.errors import ErrorCode, ErrorKind
from processor.audio.decode import Mixture
from processor.ipc import Stem
from tests.processor.separation import upstream_calls as calls
from tests.processor.separation.upstream_calls import Refusal, Stems, read
from tests.processor.source_files import RATE, decoded, noise, write_pcm

pytestmark = pytest.mark.slow

BOTH = {"vocals", "instrumental"}


@dataclass
class Harness:
    """The engine with the demo model, in a separate process."""

    upstream_process: ProcessPoolExecutor
    model_dir: Path
    scratch: Path
    folder: Path

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return self.upstream_process.submit(function, *args, **options).result(90)

    def mixture(self, name: str, samples: np.ndarray) -> Mixture:
        """Decode a file with ``samples``, ``(channels, frames)``."""
        return decoded(write_pcm(self.folder / f"{name}.wav", samples, subtype="FLOAT")).mixture

    def run(self, mixture: Mixture, **options: Any) -> tuple[tuple[Stem, ...] | Refusal, list[float]]:
        outcome: tuple[tuple[Stem, ...] | Refusal, list[float]] = self.call(
            calls.run, self.model_dir, self.scratch, mixture, self.folder, **options
        )
        return outcome

    def stems(self, mixture: Mixture, **options: Any) -> tuple[Stem, ...]:
        stems, _ = self.run(mixture, **options)
        assert not isinstance(stems, Refusal), stems
        return stems

    def samples(self, mixture: Mixture) -> Stems:
        return {stem.name: read(stem) for stem in self.stems(mixture)}

    def refusal(self, mixture: Mixture, **options: Any) -> Refusal:
        refusal, _ = self.run(mixture, **options)
        assert isinstance(refusal, Refusal)
        return refusal


@pytest.fixture
def harness(upstream_process: ProcessPoolExecutor, model_dir: Path, scratch: Path, tmp_path: Path) -> Harness:
    return Harness(upstream_process, model_dir, scratch, tmp_path)


@pytest.fixture(scope="module")
def song() -> Song:
    return render_song(seconds=8)


def test_stems_equal_upstream_bit_for_bit(harness: Harness, song: Song) -> None:
    samples = song.mixture / np.max(np.abs(song.mixture))
    mixture = harness.mixture("song", samples)
    assert mixture.peak == 1.0

    upstream: Stems = harness.call(calls.upstream_stems, harness.model_dir, mixture.path, harness.scratch)
    ours = harness.samples(mixture)

    assert ours.keys() == upstream.keys() == BOTH
    for name in BOTH:
        np.testing.assert_array_equal(ours[name], upstream[name])


def test_quality_does_not_depend_on_the_level(harness: Harness, song: Song) -> None:
    """Unlike audio-separator, whose stems are consistent only where the mixture's peak is 1."""

    def gains(peak: float) -> dict[str, float]:
        scale = np.float32(peak / np.max(np.abs(song.mixture)))
        stems = harness.samples(harness.mixture(f"song at {peak}", song.mixture * scale))
        return {
            name: sdr_db(truth, stems[name] / scale) - sdr_db(truth, song.mixture)
            for name, truth in (("vocals", song.vocals), ("instrumental", song.instrumental))
        }

    expected = gains(1.0)
    assert min(expected.values()) > 6
    for peak in (0.1, 0.5, 3.0):
        assert gains(peak) == pytest.approx(expected, abs=1e-3)


def test_stems_sum_to_the_mixture(harness: Harness, song: Song) -> None:
    ours = harness.samples(harness.mixture("song", song.mixture))
    np.testing.assert_allclose(ours["vocals"] + ours["instrumental"], song.mixture, rtol=0, atol=1e-6)


@pytest.mark.parametrize("frames", [1, 4410, RATE + 1])
def test_stems_are_as_long_as_the_song(harness: Harness, frames: int) -> None:
    stems = harness.stems(harness.mixture("song", noise(2.0)[:, :frames]))
    for stem in stems:
        assert soundfile.info(stem.path).frames == stem.frames == frames
        assert (stem.sample_rate, stem.channels) == (RATE, 2)
    assert {stem.name for stem in stems} == BOTH


def test_silence_has_silent_stems(harness: Harness) -> None:
    for stem in harness.stems(harness.mixture("song", np.zeros((2, RATE), np.float32))):
        assert stem.peak == 0.0
        assert not read(stem).any()


def test_results_are_reproducible(harness: Harness) -> None:
    first, second = (harness.stems(harness.mixture(name, noise(3.0))) for name in ("first", "second"))
    assert [stem.sha256 for stem in first] == [stem.sha256 for stem in second]
    for stem in second:
        content = stem.path.read_bytes()
        assert (stem.bytes, stem.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert stem.peak == np.max(np.abs(read(stem)))


@pytest.mark.parametrize("wanted", [("vocals",), ("instrumental", "vocals"), ("vocals", "vocals")])
def test_only_requested_stems_are_written(harness: Harness, wanted: tuple[str, ...]) -> None:
    stems = harness.stems(harness.mixture("song", noise(1.0)), stems=wanted)
    assert [stem.name for stem in stems] == list(dict.fromkeys(wanted))
    assert {path.stem for path in harness.folder.glob("*.wav")} == {"song", *wanted}


def test_unknown_stem_is_rejected_before_separation(harness: Harness) -> None:
    refusal, progress = harness.run(harness.mixture("song", noise(1.0)), stems=("vocals", "drums", "bass"))
    assert refusal == Refusal(
        ErrorKind.PERMANENT,
        ErrorCode.STEM_UNKNOWN,
        "the model has no stem named bass, drums; it has instrumental, vocals",
    )
    assert progress == []


def test_progress_goes_from_0_to_1(harness: Harness) -> None:
    _, progress = harness.run(harness.mixture("song", noise(12.0)))
    assert progress == sorted(set(progress))
    assert (progress[0], progress[-1]) == (0.0, 1.0)
    assert len(progress) > 3


def test_cancellation_leaves_no_files(harness: Harness) -> None:
    mixture = harness.mixture("song", noise(12.0))
    expected = [stem.sha256 for stem in harness.stems(mixture)]
    for stem in BOTH:
        (harness.folder / f"{stem}.wav").unlink()

    refusal, progress = harness.run(mixture, cancel_at=0.5)

    assert isinstance(refusal, Refusal)
    assert (refusal.kind, refusal.code) == (ErrorKind.CANCELLED, ErrorCode.SHUTTING_DOWN)
    assert 0.5 <= progress[-1] < 1.0
    assert [path.name for path in harness.folder.glob("*.wav")] == ["song.wav"]
    assert [stem.sha256 for stem in harness.stems(mixture)] == expected


def test_non_finite_output_of_a_model_is_an_error(harness: Harness) -> None:
    """An MDX model whose output is its input divided by zero."""
    ends = [onnx.helper.make_tensor_value_info(end, 1, ["batch", 4, 2048, 256]) for end in ("input", "output")]
    nodes = [onnx.helper.make_node("Sub", ["input", "input"], ["zero"])]
    nodes.append(onnx.helper.make_node("Div", ["input", "zero"], ["output"]))
    graph = onnx.helper.make_graph(nodes, "nan", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    model_dir = harness.folder / "models"
    parameters = {"compensate": 1.0, "mdx_dim_f_set": 2048, "mdx_dim_t_set": 8, "mdx_n_fft_scale_set": 4096}
    install_mdx_model(model_dir, "nan.onnx", model.SerializeToString(), {**parameters, "primary_stem": "Vocals"})

    refusal = harness.call(
        calls.run, model_dir, harness.scratch, harness.mixture("song", noise(1.0)), harness.folder, model="nan.onnx"
    )[0]

    assert refusal == Refusal(
        ErrorKind.PERMANENT,
        ErrorCode.STEM_MISSING,
        "the separation failed: instrumental has samples that are no numbers",
    )


# --- models ---


def test_engine_reports_the_device(harness: Harness) -> None:
    assert harness.call(calls.load, harness.model_dir, harness.scratch, DEMO_MODEL_NAME) == "cpu"


def test_missing_required_gpu_is_an_error(harness: Harness) -> None:
    refusal = harness.call(calls.load, harness.model_dir, harness.scratch, DEMO_MODEL_NAME, require_gpu=True)
    assert (refusal.kind, refusal.code) == (ErrorKind.TRANSIENT, ErrorCode.DEVICE_UNAVAILABLE)
    assert refusal.message.startswith(
        f"a GPU is required (REQUIRE_GPU, PROCESSOR_DEVICES), but the model {DEMO_MODEL_NAME} would run on"
    )


@pytest.mark.parametrize("name", ["no-such-model.onnx", "mdx_model_data.json"])
def test_unknown_model_is_an_error(harness: Harness, name: str) -> None:
    mixture = harness.mixture("song", noise(0.2))
    assert harness.refusal(mixture, model=name) == Refusal(
        ErrorKind.PERMANENT, ErrorCode.MODEL_UNKNOWN, f"there is no model named {name}: no list of models has it"
    )
    assert harness.stems(mixture)  # the loaded model still works


def test_damaged_model_is_an_error(harness: Harness) -> None:
    damaged = b"this is no protobuf" * 100
    model_dir = harness.folder / "models"
    install_mdx_model(
        model_dir,
        "damaged.onnx",
        damaged,
        {
            "primary_stem": "Vocals",
            "compensate": 1.0,
            "mdx_dim_f_set": 2048,
            "mdx_dim_t_set": 8,
            "mdx_n_fft_scale_set": 4096,
        },
    )
    refusal = harness.call(calls.load, model_dir, harness.scratch, "damaged.onnx")
    assert refusal == Refusal(
        ErrorKind.PERMANENT,
        ErrorCode.MODEL_INVALID,
        "the model damaged.onnx cannot be loaded (InvalidProtobuf): its files are damaged, incomplete or of a kind "
        "that is not supported; if they are damaged, remove them from MODEL_FILE_DIR to have them downloaded again",
    )


def test_model_without_matching_metadata_is_an_error(harness: Harness) -> None:
    """The file does not match its metadata, for example because it was truncated."""
    model_dir = harness.folder / "models"
    model = (harness.model_dir / DEMO_MODEL_NAME).read_bytes()
    install_mdx_model(model_dir, DEMO_MODEL_NAME, model, {"primary_stem": "Vocals"})
    (model_dir / DEMO_MODEL_NAME).write_bytes(model[:-100])
    assert model_hash(model[:-100]) not in (model_dir / "mdx_model_data.json").read_text()
    refusal = harness.call(calls.load, model_dir, harness.scratch, DEMO_MODEL_NAME)
    assert (refusal.kind, refusal.code) == (ErrorKind.PERMANENT, ErrorCode.MODEL_INVALID)
    assert refusal.message.startswith(f"the model {DEMO_MODEL_NAME} cannot be loaded (ValueError): ")
