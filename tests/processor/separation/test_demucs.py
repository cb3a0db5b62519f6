"""Demucs models driven by us: audio-separator's stems, from the same shifts, in memory that does not grow."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demo import tiny_models
from demo.tiny_models import DICING, FOUR, HYBRID_TRANSFORMER, DemucsModel
from pipeline.errors import ErrorCode, ErrorKind
from processor.audio.decode import Mixture
from processor.audio.wav import SAMPLE_RATE, Samples
from tests.processor.separation import demucs_experiments
from tests.processor.separation import upstream as experiments
from tests.processor.separation.testbed import NOT_SEPARABLE, Lab, assert_equal
from tests.processor.separation.upstream import Refusal, Stems, read

pytestmark = pytest.mark.slow

MIB = 1 << 20

MODELS = {
    # Always wants a whole segment, and draws a random number at each.
    "six": DemucsModel(
        "htdemucs.HTDemucs",
        {"sources": [*FOUR, "guitar", "piano"], "segment": Fraction(11, 5), **HYBRID_TRANSFORMER},
    ),
    # As fine-tuned models have them: stems of one network alone, and others of both.
    "bag": DemucsModel(
        "htdemucs.HTDemucs",
        {"sources": FOUR, "segment": Fraction(39, 25), **HYBRID_TRANSFORMER},
        ((1.0, 0.0, 1.0, 0.3), (0.0, 1.0, 1.0, 0.8)),
    ),
    # Takes what it is given.
    "hybrid": DemucsModel("hdemucs.HDemucs", {"sources": FOUR, "channels": 4, "segment": 2}),
    # Wants somewhat more than a segment, which is shorter than the shifts.
    "waves": DemucsModel("demucs.Demucs", {"sources": FOUR, "channels": 4, "depth": 4, "segment": 0.3}),
    # Next to nothing, for long songs.
    "light": DemucsModel(
        "demucs.Demucs",
        {
            "sources": FOUR,
            "channels": 1,
            "depth": 1,
            "segment": 4,
            "resample": False,
            "dconv_mode": 0,
            "rewrite": False,
        },
    ),
    "dicing": DICING,
    "endless": DemucsModel("demucs.Demucs", {"sources": FOUR, "channels": 4, "depth": 4, "segment": None}),
}


class DemucsLab(Lab):
    suffix = ".yaml"

    def stock(self, mixture: Mixture, model: str, **options: Any) -> Stems:
        """With the shifts that the engine's songs have."""
        model += self.suffix
        return self._stems(
            demucs_experiments.stock_stems, self.models, mixture.path, self.scratch, model=model, **options
        )

    def driven(self, mixture: Mixture, model: str, **options: Any) -> tuple[str, Stems]:
        """The kind of driver, and its stems."""
        model += self.suffix
        separator: tuple[str, Stems] = self.call(
            demucs_experiments.driven_stems, self.models, mixture.path, self.scratch, model=model, **options
        )
        return separator

    def promised(self, model: str) -> tuple[str, frozenset[str] | None]:
        """The kind of driver, and the stems that it promises."""
        model += self.suffix
        promised: tuple[str, frozenset[str] | None] = self.call(
            demucs_experiments.promised, self.models, self.scratch, model=model
        )
        return promised


@pytest.fixture(scope="module")
def models(library: ProcessPoolExecutor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demucs") / "models"
    library.submit(tiny_models.write_demucs_models, folder, MODELS).result(90)
    return folder


@pytest.fixture
def lab(library: ProcessPoolExecutor, models: Path, scratch: Path, tmp_path: Path) -> DemucsLab:
    return DemucsLab(library, scratch, tmp_path, models)


def coarse(frames: int) -> Samples:
    """Noise of so few levels that sums of its samples are exact, in whatever order and precision they are made: its
    mean is the same for stock as for us."""
    return (np.random.default_rng(frames).integers(-128, 129, (frames, 2)) / 128).astype(np.float32)


def fine(frames: int) -> Samples:
    samples = np.random.default_rng(frames).standard_normal((frames, 2), np.float32) + np.float32(0.3)
    whole: Samples = samples / np.max(np.abs(samples))
    return whole


def assert_as_good_as_equal(ours: Stems, stock: Stems) -> None:
    """At least 90 dB of signal over what differs."""
    assert ours.keys() == stock.keys()
    for name, samples in stock.items():
        noise = np.mean(np.square(ours[name] - samples, dtype=np.float64))
        assert noise <= 1e-9 * np.mean(np.square(samples, dtype=np.float64)), name


@pytest.mark.parametrize(
    ("model", "frames"),
    [
        pytest.param("bag", 7 * SAMPLE_RATE, id="a bag, two blocks"),
        pytest.param("six", 200_001, id="several segments and a bit"),
        pytest.param("six", 5_000, id="less than a segment"),
        pytest.param("hybrid", 4 * SAMPLE_RATE, id="segments as they come"),
        pytest.param("waves", 30_000, id="shifts of more than a segment"),
        pytest.param("waves", 1, id="one sample"),
    ],
)
def test_the_same_bits_as_stock(lab: DemucsLab, model: str, frames: int) -> None:
    mixture = lab.mixture(coarse(frames))
    stems, stock = lab.separated(mixture, model), lab.stock(mixture, model)
    assert {stem.name for stem in stems} == stock.keys()
    for stem in stems:
        assert np.any(stock[stem.name])  # it does something
        np.testing.assert_array_equal(read(stem), stock[stem.name], stem.name)


def test_a_stem_alone_is_the_same_and_runs_those_networks_that_count_for_it(lab: DemucsLab) -> None:
    """To the bit: a network that is left out still draws its random numbers. A step of the progress is a segment."""
    mixture = lab.mixture(coarse(3 * SAMPLE_RATE))
    _, all_steps = lab.run(mixture, "bag")
    every = {stem.name: stem.sha256 for stem in lab.separated(mixture, "bag")}
    steps = {}
    for name in FOUR:
        stems, progress = lab.run(mixture, "bag", stems=(name,))
        assert not isinstance(stems, Refusal)
        assert {stem.name: stem.sha256 for stem in stems} == {name: every[name]}
        steps[name] = len(progress) - 1
    assert steps["drums"] + steps["bass"] == steps["other"] == steps["vocals"] == len(all_steps) - 1


def test_some_stems_of_one_network_are_the_same(lab: DemucsLab) -> None:
    mixture = lab.mixture(coarse(SAMPLE_RATE))
    every = lab.separated(mixture, "six")
    stems, _ = lab.run(mixture, "six", stems=("piano", "bass"))
    assert not isinstance(stems, Refusal)
    assert [stem.name for stem in stems] == ["piano", "bass"]
    assert {stem.name: stem.sha256 for stem in stems}.items() <= {stem.name: stem.sha256 for stem in every}.items()


def test_where_sums_are_rounded_the_stems_are_as_good_as_equal(lab: DemucsLab) -> None:
    mixture = lab.mixture(fine(3 * SAMPLE_RATE))
    _, stems = lab.driven(mixture, "six")
    assert_as_good_as_equal(stems, lab.stock(mixture, "six"))


@pytest.mark.parametrize(
    "levels",
    [
        pytest.param((0.0, 0.0), id="silence"),
        pytest.param((0.7, 0.7), id="direct current"),
        pytest.param((1.0, -1.0), id="channels that cancel out"),
    ],
)
def test_a_song_that_has_no_spread(lab: DemucsLab, levels: tuple[float, float]) -> None:
    samples = np.tile(np.asarray(levels, np.float32), (SAMPLE_RATE, 1))
    mixture = lab.mixture(samples)
    _, stems = lab.driven(mixture, "hybrid")
    assert_as_good_as_equal(stems, lab.stock(mixture, "hybrid"))
    average = np.full((2, SAMPLE_RATE), np.float32(sum(levels) / 2))
    for samples in stems.values():
        np.testing.assert_allclose(samples, average, rtol=1e-6)


@pytest.mark.parametrize(("model", "batch"), [("bag", 3), ("hybrid", 8)])
def test_several_segments_at_a_time_give_the_same(lab: DemucsLab, model: str, batch: int) -> None:
    """As a GPU is given them; the last ones of a song are shorter, and fewer."""
    mixture = lab.mixture(fine(5 * SAMPLE_RATE))
    (_, one), (_, several) = (lab.driven(mixture, model, batch=size) for size in (1, batch))
    assert_as_good_as_equal(several, one)
    assert any(not np.array_equal(several[name], one[name]) for name in one)


@pytest.mark.parametrize("model", ["six", "bag"])
def test_the_stems_are_known_before_the_song(lab: DemucsLab, model: str) -> None:
    names = frozenset(MODELS[model].options["sources"])
    assert lab.promised(model) == ("DemucsDriver", names)
    refusal, progress = lab.run(lab.mixture(coarse(1000)), model, stems=("kazoo",))
    assert isinstance(refusal, Refusal)
    assert (refusal.code, progress) == (ErrorCode.STEM_UNKNOWN, [])
    assert {stem.name for stem in lab.separated(lab.mixture(coarse(1000)), model)} == names
    assert lab.promised(model) == ("DemucsDriver", names)


def test_twice_the_same_song_gives_the_same_bytes_and_the_network_is_read_once(lab: DemucsLab, tmp_path: Path) -> None:
    models = tmp_path / "models"
    lab.call(tiny_models.write_demucs_models, models, {"bag": MODELS["bag"]})
    lab = replace(lab, models=models)
    song, other = coarse(SAMPLE_RATE), coarse(SAMPLE_RATE // 2)
    first = lab.separated(lab.mixture(song), "bag")
    for file in models.glob("*.th"):
        file.unlink()
    assert {stem.frames for stem in lab.separated(lab.mixture(other), "bag")} == {len(other)}
    assert lab.separated(lab.mixture(song), "bag") == first


def test_a_network_that_is_not_what_its_name_says_is_not_loaded(lab: DemucsLab, tmp_path: Path) -> None:
    models = tmp_path / "models"
    lab.call(tiny_models.write_demucs_models, models, {"light": MODELS["light"]})
    (weights,) = models.glob("*.th")
    weights.write_bytes(weights.read_bytes() + b"more")
    refusal = lab.call(experiments.load, models, lab.scratch, "light.yaml")
    assert isinstance(refusal, Refusal)
    assert (refusal.kind, refusal.code) == (ErrorKind.TRANSIENT, ErrorCode.MODEL_UNAVAILABLE)
    assert "(ModelLoadingError)" in refusal.message


def test_progress_and_cancel(lab: DemucsLab) -> None:
    mixture = lab.mixture(coarse(4 * SAMPLE_RATE))
    refusal, progress = lab.run(mixture, "hybrid", cancel_at=0.4)
    assert isinstance(refusal, Refusal)
    assert refusal.kind == ErrorKind.CANCELLED
    assert 0.4 <= progress[-1] < 0.8
    assert [path.name for path in lab.folder.iterdir()] == ["song.wav"]

    stems, progress = lab.run(mixture, "hybrid")
    assert not isinstance(stems, Refusal)
    assert (progress[0], progress[-1]) == (0.0, 1.0)
    assert progress == sorted(set(progress))  # a step for every segment
    assert len(progress) == 2 * 3 + 1


def test_memory_does_not_grow_with_the_song(lab: DemucsLab) -> None:
    """Stock would take a quarter of a GiB more for two minutes and a half than for one."""
    assert lab.growth(60, 150, "light") < 48 * MIB


@pytest.mark.parametrize("model", ["dicing", "endless"])
def test_a_network_that_cannot_be_driven_is_left_to_the_library(lab: DemucsLab, model: str) -> None:
    assert lab.promised(model) == ("StockDriver", None)


def test_a_song_that_is_not_to_be_cut_is_left_to_the_library_with_the_network_in_memory(
    lab: DemucsLab, tmp_path: Path
) -> None:
    lab = replace(lab, models=tmp_path / "models")
    lab.call(tiny_models.write_demucs_models, lab.models, {"hybrid": MODELS["hybrid"]})
    mixture = lab.mixture(coarse(SAMPLE_RATE))
    stock = lab.stock(mixture, "hybrid", whole=True)
    kind, stems = lab.driven(mixture, "hybrid", whole=True)
    assert kind == "StockDriver"
    assert_equal(stems, stock)


@pytest.mark.parametrize("second", [0, 15])
def test_samples_that_are_no_numbers_are_refused_wherever_they_are(lab: DemucsLab, second: int) -> None:
    samples = np.zeros((20 * SAMPLE_RATE, 2), np.float32)
    samples[second * SAMPLE_RATE, 1] = np.inf
    refusal, progress = lab.run(lab.mixture(samples), "light")
    assert (refusal, progress) == (NOT_SEPARABLE, [])


def test_an_empty_mixture_is_refused(lab: DemucsLab) -> None:
    assert lab.refused(lab.mixture(np.zeros((0, 2), np.float32)), "light") == NOT_SEPARABLE
