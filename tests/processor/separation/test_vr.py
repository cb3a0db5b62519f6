"""VR networks driven by us: audio-separator's stems, in memory that does not grow with the song."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from ctypes.util import find_library
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demo import tiny_models
from pipeline.errors import ErrorCode
from processor.audio.decode import Mixture
from processor.audio.wav import SAMPLE_RATE, Samples
from tests.processor.separation import upstream as experiments
from tests.processor.separation import vr_experiments
from tests.processor.separation.testbed import NOT_SEPARABLE, Lab, assert_equal
from tests.processor.separation.upstream import Refusal, Stems

pytestmark = pytest.mark.slow

MIB = 1 << 20

ONE = "1band_sr44100_hl1024"
FOUR = "4band_v3"
LOW_RATE = "1band_sr32000_hl512"
BACKWARDS = "4band_44100_reverse"
#: Four bands of middle and side; and two, of which even the higher one has a lower rate than the song.
OTHERS = ("4band_v4_ms_fullband", "2band_32000")
#: One band; and three, of middle and side.
OLD = ("1band_sr44100_hl256", "3band_44100_mid")

#: What a network of version 5.1 gives at a time: 512 frames less 64 at both ends.
STEP = 384

needs_libsamplerate = pytest.mark.skipif(
    find_library("samplerate") is None,
    reason="libsamplerate (apt-get install libsamplerate0) is not on this machine: models of several bands need it",
)
four = pytest.param(FOUR, marks=needs_libsamplerate)


class VrLab(Lab):
    suffix = ".pth"

    def stems(self, mixture: Mixture, model: str) -> Stems:
        """What the engine writes."""
        return {stem.name: experiments.read(stem) for stem in self.separated(mixture, model)}

    def stock(self, mixture: Mixture, model: str, **options: Any) -> Stems:
        """Stock gives whole hops only. Behind them, our stems are silent."""
        return {
            name: np.pad(stem.astype(np.float32), ((0, 0), (0, mixture.frames - stem.shape[1])))
            for name, stem in super().stock(mixture, model, **options).items()
        }

    def driven(self, mixture: Mixture, model: str, **options: Any) -> Stems:
        """What our driver gives."""
        model += self.suffix
        return self._stems(vr_experiments.driven, self.models, mixture.path, self.scratch, model, **options)


@pytest.fixture(scope="module")
def models(library: ProcessPoolExecutor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vr")
    library.submit(tiny_models.write_vr, folder, ONE, FOUR, LOW_RATE, BACKWARDS, *OTHERS).result(60)
    return folder


@pytest.fixture(scope="module")
def old_models(library: ProcessPoolExecutor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old_vr")
    library.submit(tiny_models.write_old_vr, folder, *OLD).result(60)
    return folder


@pytest.fixture
def lab(library: ProcessPoolExecutor, scratch: Path, tmp_path: Path, models: Path) -> VrLab:
    return VrLab(library, scratch, tmp_path, models)


def noise(frames: int) -> Samples:
    """``(frames, channels)`` at peak 1.0."""
    samples = np.random.default_rng(frames).standard_normal((frames, 2), np.float32)
    samples /= np.max(np.abs(samples))
    return samples


def assert_as_stock(ours: Stems, stock: Stems) -> None:
    """To the bit."""
    assert stock.keys() == {"drums", "no_drums"}
    assert min(map(np.std, stock.values())) > 1e-3  # the network does something, and not everything
    assert_equal(ours, stock)


@pytest.mark.parametrize("layout", [ONE, four])
@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(2 * SAMPLE_RATE + 1, id="less than a window"),
        pytest.param(20 * SAMPLE_RATE - 77, id="several windows"),
    ],
)
def test_the_same_bits_as_stock(lab: VrLab, layout: str, frames: int) -> None:
    mixture = lab.mixture(noise(frames))
    assert_as_stock(lab.stems(mixture, layout), lab.stock(mixture, layout))


@pytest.mark.parametrize("more", [0, 1])
def test_the_same_bits_as_stock_where_the_song_ends_with_a_window(lab: VrLab, more: int) -> None:
    """Frames are centred, so that the first one is at the song's first sample."""
    mixture = lab.mixture(noise((STEP - 1 + more) * 1024))
    assert_as_stock(lab.stems(mixture, ONE), lab.stock(mixture, ONE))


@needs_libsamplerate
@pytest.mark.parametrize("layout", OTHERS)
def test_the_same_bits_as_stock_with_other_bands(lab: VrLab, layout: str) -> None:
    mixture = lab.mixture(noise(7 * SAMPLE_RATE))
    assert_as_stock(lab.stems(mixture, layout), lab.stock(mixture, layout))


@pytest.mark.parametrize("layout", [OLD[0], pytest.param(OLD[1], marks=needs_libsamplerate)])
def test_the_same_bits_as_stock_with_the_networks_of_version_5_0(lab: VrLab, old_models: Path, layout: str) -> None:
    """Their bands are filtered and their channels mixed otherwise."""
    old = replace(lab, models=old_models)
    mixture = old.mixture(noise(SAMPLE_RATE))
    assert_as_stock(old.stems(mixture, layout), old.stock(mixture, layout))


def test_a_resampler_that_counts_from_the_block_is_as_good_as_stock(lab: VrLab) -> None:
    """resampy's positions are rounded: in a block they are smaller, and rounded less."""
    mixture = lab.mixture(noise(12 * SAMPLE_RATE))
    ours, stock = lab.stems(mixture, LOW_RATE), lab.stock(mixture, LOW_RATE)
    for name, samples in stock.items():
        difference = np.std(ours[name] - samples)
        assert difference < np.std(samples) * 10 ** (-110 / 20)


@needs_libsamplerate
def test_a_model_that_hears_the_song_backwards_is_stocks(lab: VrLab) -> None:
    assert lab.call(vr_experiments.driver_of, lab.models, lab.scratch, f"{BACKWARDS}.pth") == "UpstreamSeparator"
    mixture = lab.mixture(noise(SAMPLE_RATE))
    assert_as_stock(lab.stems(mixture, BACKWARDS), lab.stock(mixture, BACKWARDS))


@pytest.mark.parametrize("option", ["enable_tta", "enable_post_process", "high_end_process"])
def test_options_that_take_the_whole_song_are_stocks(lab: VrLab, option: str) -> None:
    assert lab.call(vr_experiments.driver_of, lab.models, lab.scratch, f"{ONE}.pth") == "VrSeparator"
    assert lab.call(vr_experiments.driver_of, lab.models, lab.scratch, f"{ONE}.pth", option) == "UpstreamSeparator"


def test_several_windows_at_a_time_give_the_same(lab: VrLab) -> None:
    """Three of them, two by two: the last batch is smaller. As a GPU is given them."""
    mixture = lab.mixture(noise((2 * STEP + 9) * 1024))
    one, two = (lab.driven(mixture, ONE, batch=batch) for batch in (1, 2))
    for name, samples in one.items():
        assert np.std(two[name] - samples) < np.std(samples) * 10 ** (-90 / 20)


@pytest.mark.parametrize("name", ["drums", "no_drums"])
def test_a_stem_alone_is_the_same(lab: VrLab, name: str) -> None:
    """Of a song with something behind its last whole hop as well."""
    mixture = lab.mixture(noise(SAMPLE_RATE))
    every = lab.stems(mixture, ONE)
    stems = lab.driven(mixture, ONE, only=(name,))
    assert stems.keys() == {name}
    np.testing.assert_array_equal(stems[name], every[name])


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param(np.zeros((3 * SAMPLE_RATE, 2), np.float32), id="silence"),
        pytest.param(noise(1), id="one sample"),
        pytest.param(noise(1023), id="less than a hop"),
    ],
)
def test_what_the_transform_gives_nothing_of_is_silence(lab: VrLab, samples: Samples) -> None:
    """Stock fails at the two short ones."""
    stems = lab.stems(lab.mixture(samples), ONE)
    assert stems.keys() == {"drums", "no_drums"}
    for stem in stems.values():
        np.testing.assert_array_equal(stem, np.zeros_like(samples.T))


def test_cancelled_it_leaves_nothing_and_the_next_run_is_the_same(lab: VrLab) -> None:
    """At once, in the pass that looks for the largest magnitude, and in the other one."""
    mixture = lab.mixture(noise((STEP + 9) * 1024))
    for share in (0.0, 0.01, 0.5):
        refusal, progress = lab.run(mixture, ONE, cancel_at=share)
        assert isinstance(refusal, Refusal)
        assert refusal.code == ErrorCode.SHUTTING_DOWN
        assert share <= progress[-1] < 1.0
        assert [path.name for path in lab.folder.glob("*.wav")] == ["song.wav"]
    assert_as_stock(lab.stems(mixture, ONE), lab.stock(mixture, ONE))


def test_the_weights_are_read_once(lab: VrLab, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    lab.call(tiny_models.write_vr, folder, ONE)
    own = replace(lab, models=folder)
    mixture = own.mixture(noise(SAMPLE_RATE))
    own.stems(mixture, ONE)
    (folder / f"{ONE}.pth").unlink()
    own.stems(mixture, ONE)


def test_damaged_weights_are_told_when_the_model_is_loaded(lab: VrLab, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    lab.call(tiny_models.write_vr, folder, ONE)
    lab.call(tiny_models.damage_vr, folder, f"{ONE}.pth")
    refusal = lab.call(experiments.load, folder, lab.scratch, f"{ONE}.pth")
    assert isinstance(refusal, Refusal)
    assert refusal.code == ErrorCode.MODEL_UNAVAILABLE


@pytest.mark.parametrize("second", [0, 8])
def test_samples_that_are_no_numbers_are_refused_wherever_they_are(lab: VrLab, second: int) -> None:
    samples = noise(9 * SAMPLE_RATE)
    samples[second * SAMPLE_RATE] = np.nan
    assert lab.refused(lab.mixture(samples), ONE) == NOT_SEPARABLE


def test_memory_does_not_grow_with_the_song(lab: VrLab) -> None:
    """Stock takes 200 MiB more for the half minute that is between these two."""
    assert lab.growth(20, 50, ONE) < 32 * MIB
