"""Precision, compilers and TensorRT, as far as they can be tested without a GPU."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from config import Compile, Precision
from demo import tiny_models
from demo.random_network import Shape, install_random_model
from demo.sdr import sdr_db
from processor.audio.wav import SAMPLE_RATE, write_wav
from processor.separation.options import DeviceOptions
from tests.processor.separation import device_calls as calls
from tests.processor.separation import upstream_calls, vr_calls

pytestmark = pytest.mark.slow

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
SMALL = Shape(n_fft=4096, bins=2048, log2_times=8, growth=3, levels=1, convolutions=1, bottleneck=64)
LAYOUT = "1band_sr44100_hl512"

#: Lower and upper limits of the worst stem's signal-to-noise ratio against float32, dB, by the kind of the untrained
#: network. Measured on a CPU.
EXPECTED = {
    ("mdx", Precision.BF16): (35, 55),
    ("mdx", Precision.FP16): (55, 75),
    ("mdx23c", Precision.BF16): (20, 60),
    ("mdx23c", Precision.FP16): (40, 90),
    ("roformer", Precision.BF16): (35, 60),
    ("roformer", Precision.FP16): (60, 90),
    ("vr", Precision.BF16): (20, 60),
    ("vr", Precision.FP16): (40, 90),
}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, upstream_process: ProcessPoolExecutor) -> dict[str, Path]:
    """A folder for each kind of model."""
    folder = tmp_path_factory.mktemp("models")
    install_random_model(folder / "mdx", "mdx.onnx", SMALL)
    names = ["Vocals", "Instrumental"]
    upstream_process.submit(tiny_models.write_mdxc, folder / "mdxc", names, name="mdx23c").result(60)
    upstream_process.submit(tiny_models.write_roformer, folder / "mdxc", names, name="roformer").result(60)
    upstream_process.submit(tiny_models.write_vr, folder / "vr", LAYOUT).result(60)
    return {"mdx": folder / "mdx", "mdx23c": folder / "mdxc", "roformer": folder / "mdxc", "vr": folder / "vr"}


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    samples = np.random.default_rng(0).standard_normal((3 * SAMPLE_RATE, 2), np.float32)
    path = tmp_path / "song.wav"
    write_wav(path, [samples * np.float32(0.1)], channels=2)
    return path


@pytest.mark.parametrize(("kind", "precision"), EXPECTED)
def test_accuracy_of_lower_precision(
    upstream_process: ProcessPoolExecutor,
    models: dict[str, Path],
    mixture: Path,
    scratch: Path,
    kind: str,
    precision: Precision,
) -> None:
    def stems(precision: Precision) -> upstream_calls.Stems:
        options, paths = DeviceOptions(precision), (models[kind], mixture, scratch)
        given: upstream_calls.Stems
        match kind:
            case "mdx":
                given = upstream_process.submit(
                    upstream_calls.streamed_stems, *paths, model="mdx.onnx", options=options
                ).result(90)
            case "vr":
                given = upstream_process.submit(
                    vr_calls.streamed_stems, *paths, f"{LAYOUT}.pth", options=options
                ).result(90)
            case _:
                run = upstream_process.submit(
                    upstream_calls.stream_mdxc, *paths, model=f"{kind}.ckpt", options=options
                ).result(90)
                given = run.stems
        return given

    exact, rough = stems(Precision.FP32), stems(precision)
    lower, upper = EXPECTED[kind, precision]
    assert all(stem.dtype == np.float32 for stem in rough.values())
    assert lower < min(sdr_db(stem, rough[name]) for name, stem in exact.items()) < upper


def test_torch_and_onnx_runtime_agree(
    upstream_process: ProcessPoolExecutor, models: dict[str, Path], mixture: Path, scratch: Path
) -> None:
    """Torch runs networks that are to be compiled. Without CUDA, graphs fall back to uncompiled execution."""
    paths = (models["mdx"], mixture, scratch)
    onnx = upstream_process.submit(upstream_calls.streamed_stems, *paths, model="mdx.onnx").result(90)
    options = DeviceOptions(compile=Compile.GRAPHS)
    torch = upstream_process.submit(upstream_calls.streamed_stems, *paths, model="mdx.onnx", options=options).result(90)
    for name, stem in onnx.items():
        assert sdr_db(stem, torch[name]) > 90
    assert any(not np.array_equal(torch[name], stem) for name, stem in onnx.items())


@pytest.mark.parametrize(("power", "decibels"), [(1.0, 0.0), (1e-6, 60.0), (float("nan"), -np.inf), (0.0, np.inf)])
def test_signal_to_noise(upstream_process: ProcessPoolExecutor, power: float, decibels: float) -> None:
    found = upstream_process.submit(calls.signal_to_noise, power).result(60)
    assert found == pytest.approx(decibels, abs=0.1)


def test_overflow_falls_back_to_float32(upstream_process: ProcessPoolExecutor) -> None:
    same, events = upstream_process.submit(calls.overflowing, Precision.FP16).result(60)
    assert same
    assert events == ["network_overflowed"]  # logged once


@pytest.mark.parametrize(
    ("candidates", "choice"),
    [
        pytest.param((Precision.FP16, Precision.BF16), Precision.FP16, id="the first is accurate enough"),
        pytest.param((Precision.BF16,), Precision.FP32, id="none is accurate enough"),
        pytest.param((Precision.BF16, Precision.TF32), Precision.TF32, id="the second is accurate enough"),
    ],
)
def test_automatic_precision_is_measured(
    upstream_process: ProcessPoolExecutor, candidates: tuple[Precision, ...], choice: Precision
) -> None:
    assert upstream_process.submit(calls.chosen_precision, *candidates).result(60) == choice


@pytest.mark.parametrize("precision", [Precision.AUTO, Precision.FP32, Precision.TF32])
def test_tf32_is_used_only_if_requested(upstream_process: ProcessPoolExecutor, precision: Precision) -> None:
    before, inside, after = upstream_process.submit(calls.flags, precision).result(60)
    wanted = precision is Precision.TF32
    assert (before["matmul tf32"], before["cudnn tf32"]) == (wanted, wanted)
    if precision is not Precision.AUTO:  # resolved before a network runs
        assert inside == {"matmul tf32": wanted, "cudnn tf32": wanted, "sums in half": False, "any algorithm": False}
    assert after == before


def test_all_batches_have_the_same_size(upstream_process: ProcessPoolExecutor) -> None:
    batches = upstream_process.submit(calls.uploaded_batches, 5, 2).result(60)
    assert batches == [(2, [[1, 1], [2, 2]]), (2, [[3, 3], [4, 4]]), (1, [[5, 5], [0, 0]])]
    assert upstream_process.submit(calls.uploaded_batches, 0, 2).result(60) == []


@pytest.mark.parametrize(("kind", "compiler"), [(Compile.INDUCTOR, "/no/such/compiler"), (Compile.GRAPHS, None)])
def test_network_runs_uncompiled_if_compilation_fails(
    upstream_process: ProcessPoolExecutor, tmp_path: Path, kind: Compile, compiler: str | None
) -> None:
    """The cases: no C++ compiler, and no CUDA."""
    found, events = upstream_process.submit(calls.compiling, kind, tmp_path, compiler=compiler).result(110)
    assert found == np.inf
    assert events == ["compile_failed"]


def test_missing_tensorrt_is_an_error(
    upstream_process: ProcessPoolExecutor, models: dict[str, Path], scratch: Path
) -> None:
    options = DeviceOptions(Precision.FP16, tensorrt=True)
    error = upstream_process.submit(calls.engine_error, models["mdx"], scratch, options).result(60)
    assert error.startswith("device_unavailable: TENSORRT is set, but ONNX Runtime cannot use it")


@pytest.mark.parametrize(("precision", "tf32"), [(Precision.AUTO, "0"), (Precision.FP32, "0"), (Precision.TF32, "1")])
def test_onnx_runtime_uses_tf32_only_if_requested(
    upstream_process: ProcessPoolExecutor, tmp_path: Path, precision: Precision, tf32: str
) -> None:
    options = DeviceOptions(precision)
    ((provider, chosen),) = upstream_process.submit(calls.configured_providers, options, tmp_path, CUDA).result(60)
    assert (provider, chosen["use_tf32"]) == (CUDA, tf32)
    cpu = "CPUExecutionProvider"
    assert upstream_process.submit(calls.configured_providers, options, tmp_path, cpu).result(60) == [cpu]


def test_engine_cache_is_separate_for_each_weights_file(upstream_process: ProcessPoolExecutor, tmp_path: Path) -> None:
    """There is no cache if model files are encrypted, because an engine contains the weights."""

    def chosen(weights: bytes, engines: Path | None) -> dict[str, str]:
        (tmp_path / "model.onnx").write_bytes(weights)
        options = DeviceOptions(Precision.FP16, tensorrt=True, engines=engines)
        first, second = upstream_process.submit(
            calls.configured_providers, options, tmp_path / "model.onnx", CUDA
        ).result(60)
        assert (first[0], second[0]) == (TENSORRT, CUDA)
        return dict(first[1])

    one, other, none = chosen(b"one", tmp_path / "kept"), chosen(b"other", tmp_path / "kept"), chosen(b"one", None)
    assert one["trt_fp16_enable"] == one["trt_engine_cache_enable"] == "True"
    assert one["trt_engine_cache_path"] != other["trt_engine_cache_path"]
    assert Path(one["trt_engine_cache_path"]).parent == tmp_path / "kept"
    assert none["trt_engine_cache_enable"] == "False"
    assert "trt_engine_cache_path" not in none
