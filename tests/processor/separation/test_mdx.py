"""Streamed MDX networks: audio-separator's stems bit for bit, in constant memory."""

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
from tests.processor.separation import upstream_calls as calls
from tests.processor.separation.harness import NOT_SEPARABLE, Harness, assert_equal
from tests.processor.separation.upstream_calls import Stems

pytestmark = pytest.mark.slow

#: audio-separator's segment length with its default parameters, frames: 255 hops of 1024.
SEGMENT = 255 * 1024
MIB = 1 << 20

DEMO = DEMO_MODEL_NAME.removesuffix(".onnx")

#: ONNX Runtime runs the first four, which are made for the 256 frames of a segment; torch runs the others.
SHAPES = {
    "n_fft 4096": Shape(4096, 2048, 8),
    "n_fft 6144, all bins": Shape(6144, 3072, 8),
    "n_fft 7680, no multiple of the hop": Shape(7680, 3072, 8),
    "n_fft 16384, few bins": Shape(16384, 2048, 8),
    "made for 128 frames": Shape(4096, 2048, 7),
    "made for 512 frames": Shape(6144, 2048, 9),
}


class MdxHarness(Harness):
    suffix = ".onnx"

    def noise(self, frames: int) -> Mixture:
        """Return noise at peak 1.0."""
        samples = np.random.default_rng(0).standard_normal((frames, 2), np.float32)
        samples /= np.max(np.abs(samples))
        return self.mixture(samples)

    def streamed(self, mixture: Mixture, model: str, **options: Any) -> Stems:
        model += self.suffix
        return self._stems(calls.streamed_stems, self.models, mixture.path, self.scratch, model=model, **options)


@pytest.fixture
def harness(upstream_process: ProcessPoolExecutor, scratch: Path, tmp_path: Path, model_dir: Path) -> MdxHarness:
    return MdxHarness(upstream_process, scratch, tmp_path, model_dir)


@pytest.fixture(scope="module")
def random_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small network of each shape, under the name of the shape."""
    folder = tmp_path_factory.mktemp("random")
    for name, shape in SHAPES.items():
        small = replace(shape, growth=3, levels=1, convolutions=1, bottleneck=64)
        install_random_model(folder, f"{name}.onnx", small, Metadata("Drums", 1.035))
    return folder


@pytest.fixture
def networks(harness: MdxHarness, random_models: Path) -> MdxHarness:
    return replace(harness, models=random_models)


def deviation(signal: NDArray[np.float32]) -> float:
    return float(np.std(signal))


@pytest.mark.parametrize("name", SHAPES)
def test_stems_equal_upstream_for_every_network_shape(networks: MdxHarness, name: str) -> None:
    mixture = networks.noise(9 * SAMPLE_RATE + 1)
    upstream = networks.upstream(mixture, name)
    assert upstream.keys() == {"drums", "no_drums"}
    assert min(map(deviation, upstream.values())) > 1e-3  # the network has an effect on both stems
    assert_equal(networks.streamed(mixture, name), upstream)


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(1, id="one sample"),
        pytest.param(4409, id="less than a transform"),
        pytest.param(SEGMENT // 2, id="less than a segment"),
        pytest.param(SEGMENT - 4096, id="the kept part of one segment"),
        pytest.param(2 * (SEGMENT - 4096) + 1, id="one more than two kept parts"),
        pytest.param(3 * (SEGMENT * 3 // 4) - 2048, id="the end of a step"),
        pytest.param(3 * (SEGMENT * 3 // 4) - 2047, id="one more than the end of a step"),
    ],
)
def test_stems_equal_upstream_for_every_length(networks: MdxHarness, frames: int) -> None:
    mixture = networks.noise(frames)
    ours = networks.streamed(mixture, "n_fft 4096")
    assert {stem.shape for stem in ours.values()} == {(2, frames)}
    assert_equal(ours, networks.upstream(mixture, "n_fft 4096"))


@pytest.mark.parametrize("name", ["n_fft 4096", "made for 512 frames"])
def test_denoising_equals_upstream(networks: MdxHarness, name: str) -> None:
    mixture = networks.noise(5 * SAMPLE_RATE)
    ours = networks.streamed(mixture, name, denoise=True)
    assert_equal(ours, networks.upstream(mixture, name, denoise=True))
    plain = networks.streamed(mixture, name)
    assert not np.array_equal(ours["drums"], plain["drums"])


def test_larger_batches_give_nearly_equal_stems(networks: MdxHarness) -> None:
    """Five segments in pipelined batches of two, as on a GPU. The last batch is not full."""
    mixture = networks.noise(20 * SAMPLE_RATE)
    one, two = (networks.streamed(mixture, "n_fft 6144, all bins", batch=n, pipelined=n > 1) for n in (1, 2))
    for name, samples in one.items():
        noise = deviation(two[name] - samples)
        assert noise == 0.0 or 20 * np.log10(deviation(samples) / noise) > 90


def test_steps_with_less_memory_end(harness: MdxHarness) -> None:
    """Batches have several segments on a GPU only."""
    steps = harness.call(calls.memory_steps, harness.models, harness.scratch, DEMO_MODEL_NAME, 4)
    assert steps == ((), ("batch_1",))


def test_stems_sum_to_the_mixture_with_compensation(networks: MdxHarness) -> None:
    mixture = networks.noise(5 * SAMPLE_RATE)
    stems = networks.streamed(mixture, "n_fft 4096")
    total = stems["drums"] * np.float32(1.035) + stems["no_drums"]
    song = np.concatenate(list(read_blocks(mixture.path))).T
    np.testing.assert_allclose(total, song, rtol=0, atol=1e-6)


def test_memory_is_constant(harness: MdxHarness) -> None:
    """audio-separator takes a quarter of a GiB more for 120 s than for 30 s."""
    assert harness.growth(30, 120, DEMO) < 32 * MIB


@pytest.mark.parametrize("second", [0, 15])
def test_samples_that_are_not_finite_are_rejected(harness: MdxHarness, second: int) -> None:
    samples = np.zeros((20 * SAMPLE_RATE, 2), np.float32)
    samples[second * SAMPLE_RATE] = np.nan
    assert harness.refused(harness.mixture(samples), DEMO) == NOT_SEPARABLE


def test_empty_mixture_is_rejected(harness: MdxHarness) -> None:
    assert harness.refused(harness.mixture(np.zeros((0, 2), np.float32)), DEMO) == NOT_SEPARABLE
