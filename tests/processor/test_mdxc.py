"""MDX23C models and Roformers driven by us: audio-separator's stems, in memory that does not grow with the song."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from demo import tiny_models
from pipeline.errors import ErrorCode, ErrorKind
from processor.decode import Mixture
from processor.protocol import Stem
from processor.wav import SAMPLE_RATE, Samples, write_wav
from tests.processor import library as experiments
from tests.processor.library import MdxcRun, Refusal, Stems

pytestmark = pytest.mark.slow

#: What an MDX23C model and a Roformer of ``tiny_models`` take of a song at a time, if it is shorter than ten seconds.
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


@dataclass(frozen=True)
class Lab:
    library: ProcessPoolExecutor
    scratch: Path
    folder: Path
    models: Path

    def call(self, experiment: Any, *args: Any, **options: Any) -> Any:
        return self.library.submit(experiment, *args, **options).result(90)

    def write(self, samples: Samples) -> Path:
        """``(frames, channels)`` in a file."""
        path = self.folder / f"{len(samples)}.wav"
        write_wav(path, [samples], channels=2)
        return path

    def stock(self, mixture: Path, model: str) -> Stems:
        stems: Stems = self.call(experiments.stock_stems, self.models, mixture, self.scratch, model=f"{model}.ckpt")
        return stems

    def run(self, mixture: Path, model: str, **options: Any) -> MdxcRun:
        run: MdxcRun = self.call(
            experiments.mdxc_run, self.models, mixture, self.scratch, model=f"{model}.ckpt", **options
        )
        return run

    def driven(self, mixture: Path, model: str, **options: Any) -> Stems:
        run = self.run(mixture, model, **options)
        assert run.error is None
        return run.stems


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, library: ProcessPoolExecutor) -> Path:
    folder = tmp_path_factory.mktemp("mdxc")
    library.submit(write_models, folder).result(60)
    return folder


@pytest.fixture
def lab(library: ProcessPoolExecutor, scratch: Path, tmp_path: Path, models: Path) -> Lab:
    return Lab(library, scratch, tmp_path, models)


def noise(frames: int, *, peak: float = 0.5) -> Samples:
    """``(frames, channels)``. At a peak of 0.5 no stem of an untrained network, or rest of one, is above 1.0."""
    samples = np.random.default_rng(frames).standard_normal((frames, 2), np.float32)
    samples *= np.float32(peak) / np.max(np.abs(samples))
    return samples


def assert_equal(ours: Stems, stock: Stems) -> None:
    assert ours.keys() == stock.keys()
    for name, samples in stock.items():
        np.testing.assert_array_equal(ours[name], samples)


def snr(signal: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Decibels."""
    error = np.std(signal - reference)
    return float(20 * np.log10(np.std(reference) / error)) if error else np.inf


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
def test_the_same_bits_as_stock(lab: Lab, model: str, seconds: int, stems: set[str]) -> None:
    mixture = lab.write(noise(seconds * SAMPLE_RATE + 17))
    stock = lab.stock(mixture, model)
    assert stock.keys() == stems
    assert min(map(np.std, stock.values())) > 1e-3  # the network does something
    assert_equal(lab.driven(mixture, model), stock)


@pytest.mark.parametrize(
    ("model", "frames"),
    [
        pytest.param("mdx23c, a target", 1, id="one sample"),
        pytest.param("mdx23c, a target", SHORT_MDX23C - 1, id="less than a segment"),
        pytest.param("mdx23c, a target", SHORT_MDX23C, id="a segment"),
        pytest.param("mdx23c, a target", 10 * SAMPLE_RATE - 1, id="the longest that is short"),
        pytest.param("mdx23c, a target", 10 * SAMPLE_RATE, id="the shortest that is not"),
        pytest.param("bs, a target", 100 * 441, id="roformer: hops, less than a segment"),
        pytest.param("bs, a target", SHORT_ROFORMER, id="roformer: a segment"),
        pytest.param("bs, a target", SHORT_ROFORMER + 1, id="roformer: one more than a segment"),
        pytest.param("bs, a target", 10 * SAMPLE_RATE - 1, id="roformer: the longest that is short"),
        pytest.param("bs, a target", 10 * SAMPLE_RATE, id="roformer: the shortest that is not"),
        pytest.param("mel, any length", 100 * 441 + 7, id="roformer whose transform gives all back"),
    ],
)
def test_the_same_bits_as_stock_whatever_the_length(lab: Lab, model: str, frames: int) -> None:
    """Below ten seconds, stock's segments are longer or shorter than the model's own."""
    mixture = lab.write(noise(frames))
    ours = lab.driven(mixture, model)
    assert {stem.shape for stem in ours.values()} == {(2, frames)}
    assert_equal(ours, lab.stock(mixture, model))


@pytest.mark.parametrize("model", ["mdx23c, a target", "bs, a target"])
def test_silence_as_stock_has_it(lab: Lab, model: str) -> None:
    mixture = lab.write(np.zeros((11 * SAMPLE_RATE, 2), np.float32))
    assert_equal(lab.driven(mixture, model), lab.stock(mixture, model))


@pytest.mark.parametrize("model", ["bs, passes", "mel, passes"])
@pytest.mark.parametrize("frames", [1, 513, 60_000])
def test_a_roformer_that_lets_all_pass_gives_short_songs_back_to_their_end(lab: Lab, model: str, frames: int) -> None:
    """Stock leaves the last of them silent, and has an error for the shortest."""
    song = noise(frames)
    mixture = lab.write(song)
    for stem in lab.driven(mixture, model).values():
        np.testing.assert_allclose(stem.T, song, rtol=0, atol=1e-6)
    if frames == 1:
        with pytest.raises(RuntimeError, match="Padding size"):
            lab.stock(mixture, model)
    else:
        silent = frames - frames % 441
        for stem in lab.stock(mixture, model).values():
            np.testing.assert_allclose(stem.T[:silent], song[:silent], rtol=0, atol=1e-6)
            assert not stem.T[silent:].any()


def test_stems_above_the_mixture_still_sum_to_it(lab: Lab) -> None:
    """Stock scales each one down by itself to the mixture's peak."""
    song = noise(SHORT_MDX23C, peak=1.0)
    mixture = lab.write(song)
    ours, stock = lab.driven(mixture, "mdx23c, a target"), lab.stock(mixture, "mdx23c, a target")
    peak = np.abs(ours["instrumental"]).max()
    assert peak > 1.01
    assert snr(stock["instrumental"] * peak, ours["instrumental"]) > 90
    np.testing.assert_array_equal(ours["vocals"], stock["vocals"])
    np.testing.assert_allclose((ours["vocals"] + ours["instrumental"]).T, song, rtol=0, atol=1e-6)


def test_where_segments_do_not_divide_evenly_stock_is_louder_at_their_edges(lab: Lab) -> None:
    segment, overlap = 63 * 1024, 5
    step = segment // overlap
    frames = 11 * SAMPLE_RATE
    mixture = lab.write(noise(frames))
    model = "mdx23c, a fifth of a segment"
    ours, stock = lab.driven(mixture, model), lab.stock(mixture, model)
    place = np.arange(frames - segment) + segment - step
    times = place // step - (place - segment) // step  # how many segments a sample lies in
    assert set(times) == {overlap, overlap + 1}
    for name, stem in stock.items():
        np.testing.assert_allclose(stem[:, : len(times)] * overlap / times, ours[name][:, : len(times)], atol=1e-7)


@pytest.mark.parametrize("model", ["mdx23c, three", "bs, a target", "mel, three"])
def test_several_segments_at_a_time_give_the_same(lab: Lab, model: str) -> None:
    """As a GPU is given them, one batch ahead; the last is smaller."""
    mixture = lab.write(noise(12 * SAMPLE_RATE))
    one, four = lab.driven(mixture, model), lab.driven(mixture, model, batch=4, ahead=True)
    assert one.keys() == four.keys()
    for name, samples in one.items():
        assert snr(four[name], samples) > 90


def test_the_lighter_way_is_a_segment_at_a_time(lab: Lab) -> None:
    mixture = lab.write(noise(11 * SAMPLE_RATE))
    one = lab.run(mixture, "bs, a target")
    lighter = lab.run(mixture, "bs, a target", batch=5, lighter=True)
    assert (one.batch, lighter.batch) == (1, 1)
    assert_equal(lighter.stems, one.stems)


@pytest.mark.parametrize("model", ["mdx23c, a target", "mel, a target"])
def test_lower_precision_where_it_is_asked_for(lab: Lab, model: str) -> None:
    mixture = lab.write(noise(11 * SAMPLE_RATE))
    exact = lab.driven(mixture, model)["vocals"]
    rough = lab.driven(mixture, model, autocast="bfloat16")["vocals"]
    assert rough.dtype == np.float32
    assert 20 < snr(rough, exact) < 90


@pytest.mark.parametrize("ahead", [False, True])
def test_a_cancel_ends_all_that_is_under_way(lab: Lab, ahead: bool) -> None:
    mixture = lab.write(noise(20 * SAMPLE_RATE))
    run = lab.run(mixture, "bs, a target", ahead=ahead, cancel_at=0.5)
    assert (run.error, run.threads) == ("InterruptedError", [])
    assert 0 < run.stems["vocals"].shape[1] < 20 * SAMPLE_RATE


def outcome(lab: Lab, mixture: Mixture, model: str, **options: Any) -> tuple[tuple[Stem, ...] | Refusal, list[float]]:
    result: tuple[tuple[Stem, ...] | Refusal, list[float]] = lab.call(
        experiments.run, lab.models, lab.scratch, mixture, lab.folder, model=f"{model}.ckpt", **options
    )
    return result


@pytest.mark.parametrize(
    ("model", "stems"),
    [
        ("mdx23c, alone", ["vocals"]),
        ("mel, a target", ["no_vocals", "vocals"]),
        ("mdx23c, a target of three", ["no_wind_inst", "wind_inst"]),
    ],
)
def test_the_engine_names_stems_as_the_model_does(lab: Lab, model: str, stems: list[str]) -> None:
    frames = 11 * SAMPLE_RATE
    given, progress = outcome(lab, Mixture(lab.write(noise(frames)), 1.0, frames, ()), model)
    assert not isinstance(given, Refusal), given
    assert [stem.name for stem in given] == stems
    assert {stem.frames for stem in given} == {frames}
    assert (progress[0], progress[-1]) == (0.0, 1.0)
    assert progress == sorted(progress)


def test_a_cancelled_song_leaves_nothing_and_the_next_is_right(lab: Lab) -> None:
    frames = 20 * SAMPLE_RATE
    song = noise(frames)
    mixture = Mixture(lab.write(song), 1.0, frames, ())
    refusal, _ = outcome(lab, mixture, "bs, passes", cancel_at=0.5)
    assert isinstance(refusal, Refusal)
    assert refusal.code == ErrorCode.SHUTTING_DOWN
    assert [file.name for file in lab.folder.glob("*.wav")] == [mixture.path.name]
    stems, _ = outcome(lab, mixture, "bs, passes")
    assert not isinstance(stems, Refusal), stems
    np.testing.assert_allclose(experiments.read(stems[0]).T, song, rtol=0, atol=1e-6)


@pytest.mark.parametrize("samples", [np.zeros((0, 2)), np.pad([[np.nan, 0.0]], ((700_000, 700_000), (0, 0)))])
@pytest.mark.parametrize("model", ["mdx23c, a target", "bs, a target"])
def test_what_is_no_sound_is_refused(lab: Lab, model: str, samples: NDArray[np.float64]) -> None:
    path = lab.write(samples.astype(np.float32))
    refusal, _ = outcome(lab, Mixture(path, 1.0, len(samples), ()), model)
    assert refusal == Refusal(ErrorKind.PERMANENT, ErrorCode.SEPARATION_FAILED, "the model cannot separate this audio")
    assert [file.name for file in lab.folder.glob("*.wav")] == [path.name]


def test_memory_does_not_grow_with_the_song(lab: Lab) -> None:
    """Stock would take some hundred MiB more for three minutes than for a quarter of one."""
    second = noise(SAMPLE_RATE)
    mixtures = []
    for seconds in (15, 180):
        path = lab.folder / f"{seconds}.wav"
        write_wav(path, [second] * seconds, channels=2)
        mixtures.append(Mixture(path, 1.0, seconds * SAMPLE_RATE, ()))

    both = ("mdx23c, alone.ckpt", "bs, alone.ckpt")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), experiments.one_thread) as fresh:
        short, long = fresh.submit(experiments.resident_after, lab.models, lab.folder, mixtures, both).result(110)

    assert long - short < 32 * MIB
