"""MDX networks driven by us: audio-separator's stems to the last bit, in memory that does not grow with the song."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from demo.centre_model import DEMO_MODEL_NAME
from demo.random_network import Metadata, Shape, install_random_model
from processor.audio.decode import Mixture
from processor.audio.wav import SAMPLE_RATE, read_blocks
from tests.processor.separation import upstream as experiments
from tests.processor.separation.testbed import NOT_SEPARABLE, Lab, assert_equal
from tests.processor.separation.upstream import Stems

pytestmark = pytest.mark.slow

#: What stock takes of a song at a time with its parameters: 255 hops of 1024.
SEGMENT = 255 * 1024
MIB = 1 << 20

DEMO = DEMO_MODEL_NAME.removesuffix(".onnx")

#: By ONNX Runtime, which takes the 256 frames that the first four are made for; by torch, as the others are not.
SHAPES = {
    "n_fft 4096": Shape(4096, 2048, 8),
    "n_fft 6144, all bins": Shape(6144, 3072, 8),
    "n_fft 7680, no multiple of the hop": Shape(7680, 3072, 8),
    "n_fft 16384, few bins": Shape(16384, 2048, 8),
    "made for 128 frames": Shape(4096, 2048, 7),
    "made for 512 frames": Shape(6144, 2048, 9),
}


class MdxLab(Lab):
    suffix = ".onnx"

    def noise(self, frames: int) -> Mixture:
        """At peak 1.0."""
        samples = np.random.default_rng(0).standard_normal((frames, 2), np.float32)
        samples /= np.max(np.abs(samples))
        return self.mixture(samples)

    def driven(self, mixture: Mixture, model: str, **options: Any) -> Stems:
        model += self.suffix
        return self._stems(experiments.driven_stems, self.models, mixture.path, self.scratch, model=model, **options)


@pytest.fixture
def lab(library: ProcessPoolExecutor, scratch: Path, tmp_path: Path, model_dir: Path) -> MdxLab:
    return MdxLab(library, scratch, tmp_path, model_dir)


@pytest.fixture(scope="module")
def random_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network of each shape, under its name, small but for the shape."""
    folder = tmp_path_factory.mktemp("random")
    for name, shape in SHAPES.items():
        small = replace(shape, growth=3, levels=1, convolutions=1, bottleneck=64)
        install_random_model(folder, f"{name}.onnx", small, Metadata("Drums", 1.035))
    return folder


@pytest.fixture
def networks(lab: MdxLab, random_models: Path) -> MdxLab:
    return replace(lab, models=random_models)


def spread(signal: NDArray[np.float32]) -> float:
    return float(np.std(signal))


@pytest.mark.parametrize("name", SHAPES)
def test_the_same_bits_as_stock_whatever_the_network_is_made_for(networks: MdxLab, name: str) -> None:
    mixture = networks.noise(9 * SAMPLE_RATE + 1)
    stock = networks.stock(mixture, name)
    assert stock.keys() == {"drums", "no_drums"}
    assert min(map(spread, stock.values())) > 1e-3  # the network does something, and not everything
    assert_equal(networks.driven(mixture, name), stock)


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(1, id="one sample"),
        pytest.param(4409, id="less than a transform"),
        pytest.param(SEGMENT // 2, id="less than a segment"),
        pytest.param(SEGMENT - 4096, id="what is kept of one segment"),
        pytest.param(2 * (SEGMENT - 4096) + 1, id="one more than of two"),
        pytest.param(3 * (SEGMENT * 3 // 4) - 2048, id="the end of a step"),
        pytest.param(3 * (SEGMENT * 3 // 4) - 2047, id="one more than that"),
    ],
)
def test_the_same_bits_as_stock_whatever_the_length(networks: MdxLab, frames: int) -> None:
    mixture = networks.noise(frames)
    ours = networks.driven(mixture, "n_fft 4096")
    assert {stem.shape for stem in ours.values()} == {(2, frames)}
    assert_equal(ours, networks.stock(mixture, "n_fft 4096"))


@pytest.mark.parametrize("name", ["n_fft 4096", "made for 512 frames"])
def test_denoised_as_stock_denoises(networks: MdxLab, name: str) -> None:
    mixture = networks.noise(5 * SAMPLE_RATE)
    ours = networks.driven(mixture, name, denoise=True)
    assert_equal(ours, networks.stock(mixture, name, denoise=True))
    plain = networks.driven(mixture, name)
    assert not np.array_equal(ours["drums"], plain["drums"])


def test_several_segments_at_a_time_give_the_same(networks: MdxLab) -> None:
    """Five of them, two by two, one batch ahead: the last is not full. As a GPU is given them."""
    mixture = networks.noise(20 * SAMPLE_RATE)
    one, two = (networks.driven(mixture, "n_fft 6144, all bins", batch=n, ahead=n > 1) for n in (1, 2))
    for name, samples in one.items():
        noise = spread(two[name] - samples)
        assert noise == 0.0 or 20 * np.log10(spread(samples) / noise) > 90


def test_the_stems_sum_to_the_mixture_as_the_compensation_has_it(networks: MdxLab) -> None:
    mixture = networks.noise(5 * SAMPLE_RATE)
    stems = networks.driven(mixture, "n_fft 4096")
    total = stems["drums"] * np.float32(1.035) + stems["no_drums"]
    song = np.concatenate(list(read_blocks(mixture.path))).T
    np.testing.assert_allclose(total, song, rtol=0, atol=1e-6)


def test_memory_does_not_grow_with_the_song(lab: MdxLab) -> None:
    """Stock would take a quarter of a GiB more for two minutes than for half a minute."""
    assert lab.growth(30, 120, DEMO) < 32 * MIB


@pytest.mark.parametrize("second", [0, 15])
def test_samples_that_are_no_numbers_are_refused_wherever_they_are(lab: MdxLab, second: int) -> None:
    samples = np.zeros((20 * SAMPLE_RATE, 2), np.float32)
    samples[second * SAMPLE_RATE] = np.nan
    assert lab.refused(lab.mixture(samples), DEMO) == NOT_SEPARABLE


def test_an_empty_mixture_is_refused(lab: MdxLab) -> None:
    assert lab.refused(lab.mixture(np.zeros((0, 2), np.float32)), DEMO) == NOT_SEPARABLE
