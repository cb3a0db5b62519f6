"""MDX23C models and Roformers driven by us: audio-separator's stems, in memory that does not grow with the song."""

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
from tests.processor.separation import upstream as experiments
from tests.processor.separation.testbed import NOT_SEPARABLE, Lab, assert_equal
from tests.processor.separation.upstream import MdxcRun, Stems

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


class MdxcLab(Lab):
    suffix = ".ckpt"

    def drive(self, mixture: Mixture, model: str, **options: Any) -> MdxcRun:
        model += self.suffix
        run: MdxcRun = self.call(experiments.mdxc_run, self.models, mixture.path, self.scratch, model=model, **options)
        return run

    def driven(self, mixture: Mixture, model: str, **options: Any) -> Stems:
        run = self.drive(mixture, model, **options)
        assert run.error is None
        return run.stems


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, library: ProcessPoolExecutor) -> Path:
    folder = tmp_path_factory.mktemp("mdxc")
    library.submit(write_models, folder).result(60)
    return folder


@pytest.fixture
def lab(library: ProcessPoolExecutor, scratch: Path, tmp_path: Path, models: Path) -> MdxcLab:
    return MdxcLab(library, scratch, tmp_path, models)


def noise(frames: int, *, peak: float = 0.5) -> Samples:
    """``(frames, channels)``. At a peak of 0.5 no stem of an untrained network, or rest of one, is above 1.0."""
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
def test_the_same_bits_as_stock(lab: MdxcLab, model: str, seconds: int, stems: set[str]) -> None:
    mixture = lab.mixture(noise(seconds * SAMPLE_RATE + 17))
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
def test_the_same_bits_as_stock_whatever_the_length(lab: MdxcLab, model: str, frames: int) -> None:
    """Below ten seconds, stock's segments are longer or shorter than the model's own."""
    mixture = lab.mixture(noise(frames))
    ours = lab.driven(mixture, model)
    assert {stem.shape for stem in ours.values()} == {(2, frames)}
    assert_equal(ours, lab.stock(mixture, model))


@pytest.mark.parametrize("model", ["mdx23c, a target", "bs, a target"])
def test_silence_as_stock_has_it(lab: MdxcLab, model: str) -> None:
    mixture = lab.mixture(np.zeros((11 * SAMPLE_RATE, 2), np.float32))
    assert_equal(lab.driven(mixture, model), lab.stock(mixture, model))


@pytest.mark.parametrize("model", ["bs, passes", "mel, passes"])
@pytest.mark.parametrize("frames", [1, 513, 60_000])
def test_a_roformer_that_lets_all_pass_gives_short_songs_back_whole(lab: MdxcLab, model: str, frames: int) -> None:
    """Stock leaves the last of them silent, and has an error for the shortest."""
    song = noise(frames)
    mixture = lab.mixture(song)
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


def test_stems_above_the_mixture_still_sum_to_it(lab: MdxcLab) -> None:
    """Stock scales each one down by itself to the mixture's peak."""
    song = noise(SHORT_MDX23C, peak=1.0)
    mixture = lab.mixture(song)
    ours, stock = lab.driven(mixture, "mdx23c, a target"), lab.stock(mixture, "mdx23c, a target")
    peak = np.abs(ours["instrumental"]).max()
    assert peak > 1.01
    assert sdr_db(ours["instrumental"], stock["instrumental"] * peak) > 90
    np.testing.assert_array_equal(ours["vocals"], stock["vocals"])
    np.testing.assert_allclose((ours["vocals"] + ours["instrumental"]).T, song, rtol=0, atol=1e-6)


def test_where_segments_do_not_divide_evenly_stock_is_louder_at_their_edges(lab: MdxcLab) -> None:
    segment, overlap = 63 * 1024, 5
    step = segment // overlap
    frames = 11 * SAMPLE_RATE
    mixture = lab.mixture(noise(frames))
    model = "mdx23c, a fifth of a segment"
    ours, stock = lab.driven(mixture, model), lab.stock(mixture, model)
    place = np.arange(frames - segment) + segment - step
    times = place // step - (place - segment) // step  # how many segments a sample lies in
    assert set(times) == {overlap, overlap + 1}
    for name, stem in stock.items():
        np.testing.assert_allclose(stem[:, : len(times)] * overlap / times, ours[name][:, : len(times)], atol=1e-7)


@pytest.mark.parametrize("model", ["mdx23c, three", "bs, a target", "mel, three"])
def test_several_segments_at_a_time_give_the_same(lab: MdxcLab, model: str) -> None:
    """As a GPU is given them, one batch ahead; the last is smaller."""
    mixture = lab.mixture(noise(12 * SAMPLE_RATE))
    one, four = lab.driven(mixture, model), lab.driven(mixture, model, batch=4, ahead=True)
    assert one.keys() == four.keys()
    for name, samples in one.items():
        assert sdr_db(samples, four[name]) > 90


def test_the_lighter_way_is_a_segment_at_a_time(lab: MdxcLab) -> None:
    mixture = lab.mixture(noise(11 * SAMPLE_RATE))
    one = lab.drive(mixture, "bs, a target")
    lighter = lab.drive(mixture, "bs, a target", batch=5, lighter=True)
    assert (one.batch, lighter.batch) == (1, 1)
    assert_equal(lighter.stems, one.stems)


@pytest.mark.parametrize("model", ["mdx23c, a target", "mel, a target"])
def test_lower_precision_where_it_is_asked_for(lab: MdxcLab, model: str) -> None:
    mixture = lab.mixture(noise(11 * SAMPLE_RATE))
    exact = lab.driven(mixture, model)["vocals"]
    rough = lab.driven(mixture, model, options=DeviceOptions(Precision.BF16))["vocals"]
    assert rough.dtype == np.float32
    assert 20 < sdr_db(exact, rough) < 90


@pytest.mark.parametrize("ahead", [False, True])
def test_a_cancel_ends_all_that_is_under_way(lab: MdxcLab, ahead: bool) -> None:
    mixture = lab.mixture(noise(20 * SAMPLE_RATE))
    run = lab.drive(mixture, "bs, a target", ahead=ahead, cancel_at=0.5)
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
def test_the_engine_names_stems_as_the_model_does(lab: MdxcLab, model: str, stems: list[str]) -> None:
    frames = 11 * SAMPLE_RATE
    given = lab.separated(lab.mixture(noise(frames)), model)
    assert [stem.name for stem in given] == stems
    assert {stem.frames for stem in given} == {frames}


def test_a_cancelled_song_leaves_nothing_and_the_next_is_right(lab: MdxcLab) -> None:
    song = noise(20 * SAMPLE_RATE)
    mixture = lab.mixture(song)
    assert lab.refused(mixture, "bs, passes", cancel_at=0.5).code == ErrorCode.SHUTTING_DOWN
    stems = lab.separated(mixture, "bs, passes")
    np.testing.assert_allclose(experiments.read(stems[0]).T, song, rtol=0, atol=1e-6)


@pytest.mark.parametrize("samples", [np.zeros((0, 2)), np.pad([[np.nan, 0.0]], ((700_000, 700_000), (0, 0)))])
@pytest.mark.parametrize("model", ["mdx23c, a target", "bs, a target"])
def test_what_is_no_sound_is_refused(lab: MdxcLab, model: str, samples: NDArray[np.float64]) -> None:
    assert lab.refused(lab.mixture(samples.astype(np.float32)), model) == NOT_SEPARABLE


def test_memory_does_not_grow_with_the_song(lab: MdxcLab) -> None:
    """Stock would take some hundred MiB more for a minute and a half than for a quarter of a minute."""
    assert lab.growth(15, 90, "mdx23c, alone", "bs, alone") < 32 * MIB
