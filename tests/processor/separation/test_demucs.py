"""Streamed Demucs models: audio-separator's stems, with the same random shifts, in constant memory."""

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
from tests.processor.separation import demucs_calls
from tests.processor.separation import upstream_calls as calls
from tests.processor.separation.harness import NOT_SEPARABLE, Harness, assert_equal
from tests.processor.separation.upstream_calls import Refusal, Stems, read

pytestmark = pytest.mark.slow

MIB = 1 << 20

MODELS = {
    # Takes whole segments only, and draws a random number for each.
    "six": DemucsModel(
        "htdemucs.HTDemucs",
        {"sources": [*FOUR, "guitar", "piano"], "segment": Fraction(11, 5), **HYBRID_TRANSFORMER},
    ),
    # As in fine-tuned models: some stems have a weight in one network only, others in both.
    "bag": DemucsModel(
        "htdemucs.HTDemucs",
        {"sources": FOUR, "segment": Fraction(39, 25), **HYBRID_TRANSFORMER},
        ((1.0, 0.0, 1.0, 0.3), (0.0, 1.0, 1.0, 0.8)),
    ),
    # Takes segments of any length.
    "hybrid": DemucsModel("hdemucs.HDemucs", {"sources": FOUR, "channels": 4, "segment": 2}),
    # Takes slightly more than a segment, which is shorter than the shifts.
    "waves": DemucsModel("demucs.Demucs", {"sources": FOUR, "channels": 4, "depth": 4, "segment": 0.3}),
    # A minimal network, for long songs.
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


class DemucsHarness(Harness):
    suffix = ".yaml"

    def upstream(self, mixture: Mixture, model: str, **options: Any) -> Stems:
        """Return audio-separator's stems, with the engine's random shifts."""
        model += self.suffix
        return self._stems(demucs_calls.upstream_stems, self.models, mixture.path, self.scratch, model=model, **options)

    def streamed(self, mixture: Mixture, model: str, **options: Any) -> tuple[str, Stems]:
        """Return the class of the separator, and its stems."""
        model += self.suffix
        separator: tuple[str, Stems] = self.call(
            demucs_calls.streamed_stems, self.models, mixture.path, self.scratch, model=model, **options
        )
        return separator

    def separator_of(self, model: str) -> tuple[str, frozenset[str] | None]:
        """Return the class of the separator, and the stems that it declares."""
        model += self.suffix
        found: tuple[str, frozenset[str] | None] = self.call(
            demucs_calls.separator_of, self.models, self.scratch, model=model
        )
        return found


@pytest.fixture(scope="module")
def models(upstream_process: ProcessPoolExecutor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demucs") / "models"
    upstream_process.submit(tiny_models.write_demucs_models, folder, MODELS).result(90)
    return folder


@pytest.fixture
def harness(upstream_process: ProcessPoolExecutor, models: Path, scratch: Path, tmp_path: Path) -> DemucsHarness:
    return DemucsHarness(upstream_process, scratch, tmp_path, models)


def coarse(frames: int) -> Samples:
    """Return noise with so few levels that sums of its samples are exact in any order and precision.

    audio-separator and this project compute the same mean of it.
    """
    return (np.random.default_rng(frames).integers(-128, 129, (frames, 2)) / 128).astype(np.float32)


def fine(frames: int) -> Samples:
    samples = np.random.default_rng(frames).standard_normal((frames, 2), np.float32) + np.float32(0.3)
    whole: Samples = samples / np.max(np.abs(samples))
    return whole


def assert_nearly_equal(ours: Stems, upstream: Stems) -> None:
    """Assert a signal-to-noise ratio of at least 90 dB."""
    assert ours.keys() == upstream.keys()
    for name, samples in upstream.items():
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
def test_stems_equal_upstream_bit_for_bit(harness: DemucsHarness, model: str, frames: int) -> None:
    mixture = harness.mixture(coarse(frames))
    stems, upstream = harness.separated(mixture, model), harness.upstream(mixture, model)
    assert {stem.name for stem in stems} == upstream.keys()
    for stem in stems:
        assert np.any(upstream[stem.name])  # the network has an effect
        np.testing.assert_array_equal(read(stem), upstream[stem.name], stem.name)


def test_one_wanted_stem_is_unchanged_and_runs_only_networks_with_a_weight(harness: DemucsHarness) -> None:
    """A network that is left out still draws its random numbers. The progress has one step per segment."""
    mixture = harness.mixture(coarse(3 * SAMPLE_RATE))
    _, all_steps = harness.run(mixture, "bag")
    every = {stem.name: stem.sha256 for stem in harness.separated(mixture, "bag")}
    steps = {}
    for name in FOUR:
        stems, progress = harness.run(mixture, "bag", stems=(name,))
        assert not isinstance(stems, Refusal)
        assert {stem.name: stem.sha256 for stem in stems} == {name: every[name]}
        steps[name] = len(progress) - 1
    assert steps["drums"] + steps["bass"] == steps["other"] == steps["vocals"] == len(all_steps) - 1


def test_some_wanted_stems_of_one_network_are_unchanged(harness: DemucsHarness) -> None:
    mixture = harness.mixture(coarse(SAMPLE_RATE))
    every = harness.separated(mixture, "six")
    stems, _ = harness.run(mixture, "six", stems=("piano", "bass"))
    assert not isinstance(stems, Refusal)
    assert [stem.name for stem in stems] == ["piano", "bass"]
    assert {stem.name: stem.sha256 for stem in stems}.items() <= {stem.name: stem.sha256 for stem in every}.items()


def test_stems_nearly_equal_upstream_where_sums_are_rounded(harness: DemucsHarness) -> None:
    mixture = harness.mixture(fine(3 * SAMPLE_RATE))
    _, stems = harness.streamed(mixture, "six")
    assert_nearly_equal(stems, harness.upstream(mixture, "six"))


@pytest.mark.parametrize(
    "levels",
    [
        pytest.param((0.0, 0.0), id="silence"),
        pytest.param((0.7, 0.7), id="direct current"),
        pytest.param((1.0, -1.0), id="channels that cancel out"),
    ],
)
def test_constant_song(harness: DemucsHarness, levels: tuple[float, float]) -> None:
    samples = np.tile(np.asarray(levels, np.float32), (SAMPLE_RATE, 1))
    mixture = harness.mixture(samples)
    _, stems = harness.streamed(mixture, "hybrid")
    assert_nearly_equal(stems, harness.upstream(mixture, "hybrid"))
    average = np.full((2, SAMPLE_RATE), np.float32(sum(levels) / 2))
    for samples in stems.values():
        np.testing.assert_allclose(samples, average, rtol=1e-6)


@pytest.mark.parametrize(("model", "batch"), [("bag", 3), ("hybrid", 8)])
def test_larger_batches_give_nearly_equal_stems(harness: DemucsHarness, model: str, batch: int) -> None:
    """Batches as on a GPU. The last segments of a song are shorter, and their batches smaller."""
    mixture = harness.mixture(fine(5 * SAMPLE_RATE))
    (_, one), (_, several) = (harness.streamed(mixture, model, batch=size) for size in (1, batch))
    assert_nearly_equal(several, one)
    assert any(not np.array_equal(several[name], one[name]) for name in one)


@pytest.mark.parametrize("model", ["six", "bag"])
def test_stems_are_known_before_separation(harness: DemucsHarness, model: str) -> None:
    names = frozenset(MODELS[model].options["sources"])
    assert harness.separator_of(model) == ("DemucsSeparator", names)
    refusal, progress = harness.run(harness.mixture(coarse(1000)), model, stems=("kazoo",))
    assert isinstance(refusal, Refusal)
    assert (refusal.code, progress) == (ErrorCode.STEM_UNKNOWN, [])
    assert {stem.name for stem in harness.separated(harness.mixture(coarse(1000)), model)} == names
    assert harness.separator_of(model) == ("DemucsSeparator", names)


def test_results_are_reproducible_and_the_network_is_read_once(harness: DemucsHarness, tmp_path: Path) -> None:
    models = tmp_path / "models"
    harness.call(tiny_models.write_demucs_models, models, {"bag": MODELS["bag"]})
    harness = replace(harness, models=models)
    song, other = coarse(SAMPLE_RATE), coarse(SAMPLE_RATE // 2)
    first = harness.separated(harness.mixture(song), "bag")
    for file in models.glob("*.th"):
        file.unlink()
    assert {stem.frames for stem in harness.separated(harness.mixture(other), "bag")} == {len(other)}
    assert harness.separated(harness.mixture(song), "bag") == first


def test_network_with_a_wrong_hash_is_rejected(harness: DemucsHarness, tmp_path: Path) -> None:
    models = tmp_path / "models"
    harness.call(tiny_models.write_demucs_models, models, {"light": MODELS["light"]})
    (weights,) = models.glob("*.th")
    weights.write_bytes(weights.read_bytes() + b"more")
    refusal = harness.call(calls.load, models, harness.scratch, "light.yaml")
    assert isinstance(refusal, Refusal)
    assert (refusal.kind, refusal.code) == (ErrorKind.PERMANENT, ErrorCode.MODEL_INVALID)
    assert "(ModelLoadingError)" in refusal.message


def test_progress_and_cancellation(harness: DemucsHarness) -> None:
    mixture = harness.mixture(coarse(4 * SAMPLE_RATE))
    refusal, progress = harness.run(mixture, "hybrid", cancel_at=0.4)
    assert isinstance(refusal, Refusal)
    assert refusal.kind == ErrorKind.CANCELLED
    assert 0.4 <= progress[-1] < 0.8
    assert [path.name for path in harness.folder.iterdir()] == ["song.wav"]

    stems, progress = harness.run(mixture, "hybrid")
    assert not isinstance(stems, Refusal)
    assert (progress[0], progress[-1]) == (0.0, 1.0)
    assert progress == sorted(set(progress))  # one step per segment
    assert len(progress) == 2 * 3 + 1


def test_memory_is_constant(harness: DemucsHarness) -> None:
    """audio-separator takes a quarter of a GiB more for 150 s than for 60 s."""
    assert harness.growth(60, 150, "light") < 48 * MIB


@pytest.mark.parametrize("model", ["dicing", "endless"])
def test_network_that_cannot_be_streamed_uses_upstream(harness: DemucsHarness, model: str) -> None:
    assert harness.separator_of(model) == ("UpstreamSeparator", None)


def test_disabled_segmentation_uses_upstream_with_the_loaded_network(harness: DemucsHarness, tmp_path: Path) -> None:
    harness = replace(harness, models=tmp_path / "models")
    harness.call(tiny_models.write_demucs_models, harness.models, {"hybrid": MODELS["hybrid"]})
    mixture = harness.mixture(coarse(SAMPLE_RATE))
    upstream = harness.upstream(mixture, "hybrid", whole=True)
    kind, stems = harness.streamed(mixture, "hybrid", whole=True)
    assert kind == "UpstreamSeparator"
    assert_equal(stems, upstream)


@pytest.mark.parametrize("second", [0, 15])
def test_samples_that_are_not_finite_are_rejected(harness: DemucsHarness, second: int) -> None:
    samples = np.zeros((20 * SAMPLE_RATE, 2), np.float32)
    samples[second * SAMPLE_RATE, 1] = np.inf
    refusal, progress = harness.run(harness.mixture(samples), "light")
    assert (refusal, progress) == (NOT_SEPARABLE, [])


def test_empty_mixture_is_rejected(harness: DemucsHarness) -> None:
    assert harness.refused(harness.mixture(np.zeros((0, 2), np.float32)), "light") == NOT_SEPARABLE
