"""MDX networks driven by us: audio-separator's stems to the last bit, in memory that does not grow with the song."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from demo.centre_model import DEMO_MODEL_NAME
from demo.random_network import Metadata, Shape, install_random_model
from pipeline.errors import ErrorCode, ErrorKind
from processor.decode import Mixture
from processor.protocol import Stem
from processor.wav import SAMPLE_RATE, read_blocks, write_wav
from tests.processor import library as experiments
from tests.processor.library import Refusal, Stems

pytestmark = pytest.mark.slow

#: What stock takes of a song at a time with its parameters: 255 hops of 1024.
SEGMENT = 255 * 1024
MIB = 1 << 20

#: By ONNX Runtime, which takes the 256 frames that the first four are made for; by torch, as the others are not.
SHAPES = {
    "n_fft 4096": Shape(4096, 2048, 8),
    "n_fft 6144, all bins": Shape(6144, 3072, 8),
    "n_fft 7680, no multiple of the hop": Shape(7680, 3072, 8),
    "n_fft 16384, few bins": Shape(16384, 2048, 8),
    "made for 128 frames": Shape(4096, 2048, 7),
    "made for 512 frames": Shape(6144, 2048, 9),
}


@dataclass(frozen=True)
class Lab:
    library: ProcessPoolExecutor
    scratch: Path
    folder: Path
    models: Path

    def call(self, experiment: Any, *args: Any, **options: Any) -> Any:
        return self.library.submit(experiment, *args, **options).result(90)

    def mixture(self, frames: int, *, seed: int = 0) -> Mixture:
        """Noise at peak 1.0."""
        samples = np.random.default_rng(seed).standard_normal((frames, 2), np.float32)
        samples /= np.max(np.abs(samples))
        path = self.folder / f"{frames}.wav"
        write_wav(path, [samples], channels=2)
        return Mixture(path, 1.0, frames, ())

    def stock(self, mixture: Mixture, model: str, **options: Any) -> Stems:
        stems: Stems = self.call(
            experiments.stock_stems, self.models, mixture.path, self.scratch, model=model, **options
        )
        return stems

    def driven(self, mixture: Mixture, model: str, **options: Any) -> Stems:
        stems: Stems = self.call(
            experiments.driven_stems, self.models, mixture.path, self.scratch, model=model, **options
        )
        return stems


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture
def lab(library: ProcessPoolExecutor, scratch: Path, tmp_path: Path, model_dir: Path) -> Lab:
    return Lab(library, scratch, tmp_path, model_dir)


@pytest.fixture(scope="module")
def random_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network of each shape, under its name, small but for the shape."""
    folder = tmp_path_factory.mktemp("random")
    for name, shape in SHAPES.items():
        small = replace(shape, growth=3, levels=1, convolutions=1, bottleneck=64)
        install_random_model(folder, f"{name}.onnx", small, Metadata("Drums", 1.035))
    return folder


@pytest.fixture
def networks(lab: Lab, random_models: Path) -> Lab:
    return replace(lab, models=random_models)


def assert_equal(ours: Stems, stock: Stems) -> None:
    assert ours.keys() == stock.keys()
    for name, samples in stock.items():
        np.testing.assert_array_equal(ours[name], samples)


def spread(signal: NDArray[np.float32]) -> float:
    return float(np.std(signal))


@pytest.mark.parametrize("name", SHAPES)
def test_the_same_bits_as_stock_whatever_the_network_is_made_for(networks: Lab, name: str) -> None:
    mixture = networks.mixture(9 * SAMPLE_RATE + 1)
    stock = networks.stock(mixture, f"{name}.onnx")
    assert stock.keys() == {"drums", "no_drums"}
    assert min(map(spread, stock.values())) > 1e-3  # the network does something, and not everything
    assert_equal(networks.driven(mixture, f"{name}.onnx"), stock)


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
def test_the_same_bits_as_stock_whatever_the_length(networks: Lab, frames: int) -> None:
    mixture = networks.mixture(frames)
    ours = networks.driven(mixture, "n_fft 4096.onnx")
    assert {stem.shape for stem in ours.values()} == {(2, frames)}
    assert_equal(ours, networks.stock(mixture, "n_fft 4096.onnx"))


@pytest.mark.parametrize("name", ["n_fft 4096", "made for 512 frames"])
def test_denoised_as_stock_denoises(networks: Lab, name: str) -> None:
    mixture = networks.mixture(5 * SAMPLE_RATE)
    ours = networks.driven(mixture, f"{name}.onnx", denoise=True)
    assert_equal(ours, networks.stock(mixture, f"{name}.onnx", denoise=True))
    plain = networks.driven(mixture, f"{name}.onnx")
    assert not np.array_equal(ours["drums"], plain["drums"])


def test_several_segments_at_a_time_give_the_same(networks: Lab) -> None:
    """Five of them, two by two: the last batch is smaller. As a GPU is given them."""
    mixture = networks.mixture(20 * SAMPLE_RATE)
    one, two = (networks.driven(mixture, "n_fft 6144, all bins.onnx", batch=batch) for batch in (1, 2))
    for name, samples in one.items():
        noise = spread(two[name] - samples)
        assert noise == 0.0 or 20 * np.log10(spread(samples) / noise) > 90


def test_the_stems_sum_to_the_mixture_as_the_compensation_has_it(networks: Lab) -> None:
    mixture = networks.mixture(5 * SAMPLE_RATE)
    stems = networks.driven(mixture, "n_fft 4096.onnx")
    total = stems["drums"] * np.float32(1.035) + stems["no_drums"]
    song = np.concatenate(list(read_blocks(mixture.path))).T
    np.testing.assert_allclose(total, song, rtol=0, atol=1e-6)


def test_memory_does_not_grow_with_the_song(lab: Lab, tmp_path: Path) -> None:
    """Stock would take half a GiB more for four minutes than for half a minute."""
    second = np.random.default_rng(0).uniform(-1.0, 1.0, (SAMPLE_RATE, 2)).astype(np.float32)
    mixtures = []
    for seconds in (30, 240):
        path = tmp_path / f"{seconds}.wav"
        write_wav(path, [second] * seconds, channels=2)
        mixtures.append(Mixture(path, 1.0, seconds * SAMPLE_RATE, ()))

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        short, long = fresh.submit(experiments.resident_after, lab.models, tmp_path, mixtures).result(300)

    assert long - short < 32 * MIB


def outcome(lab: Lab, mixture: Mixture, **options: Any) -> tuple[Stem, ...] | Refusal:
    result: tuple[Stem, ...] | Refusal = lab.call(
        experiments.run, lab.models, lab.scratch, mixture, lab.folder, model=DEMO_MODEL_NAME, **options
    )[0]
    return result


@pytest.mark.parametrize("second", [0, 15])
def test_samples_that_are_no_numbers_are_refused_wherever_they_are(lab: Lab, second: int) -> None:
    samples = np.zeros((20 * SAMPLE_RATE, 2), np.float32)
    samples[second * SAMPLE_RATE] = np.nan
    path = lab.folder / "song.wav"
    write_wav(path, [samples], channels=2)
    refusal = outcome(lab, Mixture(path, 1.0, len(samples), ()))
    assert refusal == Refusal(ErrorKind.PERMANENT, ErrorCode.SEPARATION_FAILED, "the model cannot separate this audio")
    assert [file.name for file in lab.folder.glob("*.wav")] == ["song.wav"]


def test_an_empty_mixture_is_refused(lab: Lab) -> None:
    path = lab.folder / "song.wav"
    write_wav(path, [], channels=2)
    refusal = outcome(lab, Mixture(path, 0.0, 0, ()))
    assert refusal == Refusal(ErrorKind.PERMANENT, ErrorCode.SEPARATION_FAILED, "the model cannot separate this audio")
