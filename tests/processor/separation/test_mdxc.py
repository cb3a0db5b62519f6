"""Streamed MDX23C models and Roformers: audio-separator's stems, in constant memory."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from config import Precision
from demo import tiny_models
from demo.sdr import sdr_db
from pipeline.errors import ErrorCode
from processor.audio.decode import Mixture
from processor.audio.wav import SAMPLE_RATE, Samples
from processor.separation.options import DeviceOptions
from tests.processor.separation import upstream_calls as calls
from tests.processor.separation.harness import NOT_SEPARABLE, Harness, assert_equal
from tests.processor.separation.upstream_calls import MdxcRun, Stems

pytestmark = pytest.mark.slow

#: Segment lengths of an MDX23C model and a Roformer of ``tiny_models`` for songs shorter than 10 s, frames.
SHORT_MDX23C, SHORT_ROFORMER = 255 * 1024, 255 * 441
MIB = 1 << 20

PAIR, THREE = ["Vocals", "Instrumental"], ["vocals", "drums", "Wind Inst"]


def write_models(folder: Path) -> None:
    mdx23c, roformer = tiny_models.write_mdxc, tiny_models.write_roformer
    mdx23c(folder, PAIR, name="mdx23c, a pair")
    mdx23c(folder, PAIR, "Vocals", name="mdx23c, a target")
    mdx23c(folder, THREE, name="mdx23c, three", overlap=3)
    mdx23c(folder, PAIR, name="mdx23c, a fifth of a segment", overlap=5)
    mdx23c(folder, THREE, "Wind Inst", name="mdx23c, a target of three")
    mdx23c(folder, ["Vocals"], name="mdx23c, alone", overlap=1)
    roformer(folder, PAIR, "Instrumental", name="bs, a target")
    roformer(folder, THREE, name="bs, three", overlap=2)
    roformer(folder, ["Vocals"], name="bs, alone", overlap=1)
    roformer(folder, PAIR, name="bs, passes", passes=True)
    roformer(folder, ["vocals"], "vocals", name="mel, a target", bands="mel")
    roformer(folder, THREE, name="mel, three", bands="mel", overlap=1)
    roformer(folder, PAIR, name="mel, passes", bands="mel", passes=True)
    roformer(folder, PAIR, name="mel, any length", bands="mel", match_input_audio_length=True)


class MdxcHarness(Harness):
    suffix = ".ckpt"

    def run_streamed(self, mixture: Mixture, model: str, **options: Any) -> MdxcRun:
        model += self.suffix
        run: MdxcRun = self.call(calls.stream_mdxc, self.models, mixture.path, self.scratch, model=model, **options)
        return run

    def streamed(self, mixture: Mixture, model: str, **options: Any) -> Stems:
        run = self.run_streamed(mixture, model, **options)
        assert run.error is None
        return run.stems


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, upstream_process: ProcessPoolExecutor) -> Path:
    folder = tmp_path_factory.mktemp("mdxc")
    upstream_process.submit(write_models, folder).result(60)
    return folder


@pytest.fixture
def harness(upstream_process: ProcessPoolExecutor, scratch: Path, tmp_path: Path, models: Path) -> MdxcHarness:
    return MdxcHarness(upstream_process, scratch, tmp_path, models)


def noise(frames: int, *, peak: float = 0.5) -> Samples:
    """Return ``(frames, channels)``. At a peak of 0.5, no stem of an untrained network exceeds 1.0."""
    samples = np.random.default_rng(frames).standard_normal((frames, 2), np.float32)
    samples *= np.float32(peak) / np.max(np.abs(samples))
    return samples


@pytest.mark.parametrize(
    ("model", "seconds", "stems"),
    [
        ("mdx23c, a pair", 11, {"vocals", "instrumental"}),
        ("mdx23c, a target", 20, {"vocals", "instrumental"}),
        ("mdx23c, three", 11, {"vocals", "drums", "wind_inst"}),
        ("bs, a target", 20, {"vocals", "instrumental"}),
        ("bs, three", 11, {"vocals", "drums", "wind_inst"}),
        ("mel, a target", 20, {"vocals", "no_vocals"}),
        ("mel, three", 11, {"vocals", "drums", "wind_inst"}),
    ],
)
def test_stems_equal_upstream_bit_for_bit(harness: MdxcHarness, model: str, seconds: int, stems: set[str]) -> None:
    mixture = harness.mixture(noise(seconds * SAMPLE_RATE + 17))
    upstream = harness.upstream(mixture, model)
    assert upstream.keys() == stems
    assert min(map(np.std, upstream.values())) > 1e-3  # the network has an effect
    assert_equal(harness.streamed(mixture, model), upstream)


@pytest.mark.parametrize(
    ("model", "frames"),
    [
        pytest.param("mdx23c, a target", 1, id="one sample"),
        pytest.param("mdx23c, a target", SHORT_MDX23C - 1, id="less than a segment"),
        pytest.param("mdx23c, a target", SHORT_MDX23C, id="a segment"),
        pytest.param("mdx23c, a target", 10 * SAMPLE_RATE - 1, id="the longest short song"),
        pytest.param("mdx23c, a target", 10 * SAMPLE_RATE, id="the shortest long song"),
        pytest.param("bs, a target", 100 * 441, id="roformer: hops, less than a segment"),
        pytest.param("bs, a target", SHORT_ROFORMER, id="roformer: a segment"),
        pytest.param("bs, a target", SHORT_ROFORMER + 1, id="roformer: one more than a segment"),
        pytest.param("bs, a target", 10 * SAMPLE_RATE - 1, id="roformer: the longest short song"),
        pytest.param("bs, a target", 10 * SAMPLE_RATE, id="roformer: the shortest long song"),
        pytest.param("mel, any length", 100 * 441 + 7, id="roformer whose transform returns every sample"),
    ],
)
def test_stems_equal_upstream_for_every_length(harness: MdxcHarness, model: str, frames: int) -> None:
    """Below ten seconds, audio-separator's segments have another length than the model's own."""
    mixture = harness.mixture(noise(frames))
    ours = harness.streamed(mixture, model)
    assert {stem.shape for stem in ours.values()} == {(2, frames)}
    assert_equal(ours, harness.upstream(mixture, model))


@pytest.mark.parametrize("model", ["mdx23c, a target", "bs, a target"])
def test_silence_equals_upstream(harness: MdxcHarness, model: str) -> None:
    mixture = harness.mixture(np.zeros((11 * SAMPLE_RATE, 2), np.float32))
    assert_equal(harness.streamed(mixture, model), harness.upstream(mixture, model))


@pytest.mark.parametrize("model", ["bs, passes", "mel, passes"])
@pytest.mark.parametrize("frames", [1, 513, 60_000])
def test_identity_roformer_returns_short_songs_completely(harness: MdxcHarness, model: str, frames: int) -> None:
    """audio-separator leaves the end of such songs silent, and fails on the shortest."""
    song = noise(frames)
    mixture = harness.mixture(song)
    for stem in harness.streamed(mixture, model).values():
        np.testing.assert_allclose(stem.T, song, rtol=0, atol=1e-6)
    if frames == 1:
        with pytest.raises(RuntimeError, match="Padding size"):
            harness.upstream(mixture, model)
    else:
        silent = frames - frames % 441
        for stem in harness.upstream(mixture, model).values():
            np.testing.assert_allclose(stem.T[:silent], song[:silent], rtol=0, atol=1e-6)
            assert not stem.T[silent:].any()


def test_stems_louder_than_the_mixture_still_sum_to_it(harness: MdxcHarness) -> None:
    """audio-separator scales each of them down to the mixture's peak."""
    song = noise(SHORT_MDX23C, peak=1.0)
    mixture = harness.mixture(song)
    ours, upstream = harness.streamed(mixture, "mdx23c, a target"), harness.upstream(mixture, "mdx23c, a target")
    peak = np.abs(ours["instrumental"]).max()
    assert peak > 1.01
    assert sdr_db(ours["instrumental"], upstream["instrumental"] * peak) > 90
    np.testing.assert_array_equal(ours["vocals"], upstream["vocals"])
    np.testing.assert_allclose((ours["vocals"] + ours["instrumental"]).T, song, rtol=0, atol=1e-6)


def test_upstream_is_louder_where_the_step_does_not_divide_the_segment(harness: MdxcHarness) -> None:
    segment, overlap = 63 * 1024, 5
    step = segment // overlap
    frames = 11 * SAMPLE_RATE
    mixture = harness.mixture(noise(frames))
    model = "mdx23c, a fifth of a segment"
    ours, upstream = harness.streamed(mixture, model), harness.upstream(mixture, model)
    place = np.arange(frames - segment) + segment - step
    times = place // step - (place - segment) // step  # number of segments that contain a sample
    assert set(times) == {overlap, overlap + 1}
    for name, stem in upstream.items():
        np.testing.assert_allclose(stem[:, : len(times)] * overlap / times, ours[name][:, : len(times)], atol=1e-7)


@pytest.mark.parametrize("model", ["mdx23c, three", "bs, a target", "mel, three"])
def test_larger_batches_give_nearly_equal_stems(harness: MdxcHarness, model: str) -> None:
    """Pipelined batches as on a GPU. The last batch is smaller."""
    mixture = harness.mixture(noise(12 * SAMPLE_RATE))
    one, four = harness.streamed(mixture, model), harness.streamed(mixture, model, batch=4, pipelined=True)
    assert one.keys() == four.keys()
    for name, samples in one.items():
        assert sdr_db(samples, four[name]) > 90


def test_reduced_separator_runs_one_segment_at_a_time(harness: MdxcHarness) -> None:
    mixture = harness.mixture(noise(11 * SAMPLE_RATE))
    one = harness.run_streamed(mixture, "bs, a target")
    reduced = harness.run_streamed(mixture, "bs, a target", batch=5, reduced=True)
    assert (one.batch, reduced.batch) == (1, 1)
    assert_equal(reduced.stems, one.stems)


@pytest.mark.parametrize("model", ["mdx23c, a target", "mel, a target"])
def test_requested_precision_is_used(harness: MdxcHarness, model: str) -> None:
    mixture = harness.mixture(noise(11 * SAMPLE_RATE))
    exact = harness.streamed(mixture, model)["vocals"]
    rough = harness.streamed(mixture, model, options=DeviceOptions(Precision.BF16))["vocals"]
    assert rough.dtype == np.float32
    assert 20 < sdr_db(exact, rough) < 90


@pytest.mark.parametrize("pipelined", [False, True])
def test_cancellation_ends_all_running_work(harness: MdxcHarness, pipelined: bool) -> None:
    mixture = harness.mixture(noise(20 * SAMPLE_RATE))
    run = harness.run_streamed(mixture, "bs, a target", pipelined=pipelined, cancel_at=0.5)
    assert (run.error, run.threads) == ("InterruptedError", [])
    assert 0 < run.stems["vocals"].shape[1] < 20 * SAMPLE_RATE


@pytest.mark.parametrize(
    ("model", "stems"),
    [
        ("mdx23c, alone", ["vocals"]),
        ("mel, a target", ["no_vocals", "vocals"]),
        ("mdx23c, a target of three", ["no_wind_inst", "wind_inst"]),
    ],
)
def test_engine_uses_the_model_s_stem_names(harness: MdxcHarness, model: str, stems: list[str]) -> None:
    frames = 11 * SAMPLE_RATE
    given = harness.separated(harness.mixture(noise(frames)), model)
    assert [stem.name for stem in given] == stems
    assert {stem.frames for stem in given} == {frames}


def test_cancelled_song_leaves_no_files_and_the_next_is_correct(harness: MdxcHarness) -> None:
    song = noise(20 * SAMPLE_RATE)
    mixture = harness.mixture(song)
    assert harness.refused(mixture, "bs, passes", cancel_at=0.5).code == ErrorCode.SHUTTING_DOWN
    stems = harness.separated(mixture, "bs, passes")
    np.testing.assert_allclose(calls.read(stems[0]).T, song, rtol=0, atol=1e-6)


@pytest.mark.parametrize("samples", [np.zeros((0, 2)), np.pad([[np.nan, 0.0]], ((700_000, 700_000), (0, 0)))])
@pytest.mark.parametrize("model", ["mdx23c, a target", "bs, a target"])
def test_empty_and_non_finite_songs_are_rejected(
    harness: MdxcHarness, model: str, samples: NDArray[np.float64]
) -> None:
    assert harness.refused(harness.mixture(samples.astype(np.float32)), model) == NOT_SEPARABLE


def test_memory_is_constant(harness: MdxcHarness) -> None:
    """audio-separator takes more than 100 MiB more for 90 s than for 15 s."""
    assert harness.growth(15, 90, "mdx23c, alone", "bs, alone") < 32 * MIB
