"""Precision, compilers and TensorRT: what of them a machine without a GPU can show."""

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
from tests.processor.separation import device_experiments as experiments
from tests.processor.separation import upstream as driving
from tests.processor.separation import vr_experiments

pytestmark = pytest.mark.slow

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
SMALL = Shape(n_fft=4096, bins=2048, log2_times=8, growth=3, levels=1, convolutions=1, bottleneck=64)
LAYOUT = "1band_sr44100_hl512"

#: By the kind of network, untrained ones all: what the least of their stems has at least and at most against float32,
#: dB. Measured on a CPU.
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
def models(tmp_path_factory: pytest.TempPathFactory, library: ProcessPoolExecutor) -> dict[str, Path]:
    """A folder for each kind of model."""
    folder = tmp_path_factory.mktemp("models")
    install_random_model(folder / "mdx", "mdx.onnx", SMALL)
    names = ["Vocals", "Instrumental"]
    library.submit(tiny_models.write_mdxc, folder / "mdxc", names, name="mdx23c").result(60)
    library.submit(tiny_models.write_roformer, folder / "mdxc", names, name="roformer").result(60)
    library.submit(tiny_models.write_vr, folder / "vr", LAYOUT).result(60)
    return {"mdx": folder / "mdx", "mdx23c": folder / "mdxc", "roformer": folder / "mdxc", "vr": folder / "vr"}


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    samples = np.random.default_rng(0).standard_normal((3 * SAMPLE_RATE, 2), np.float32)
    path = tmp_path / "song.wav"
    write_wav(path, [samples * np.float32(0.1)], channels=2)
    return path


@pytest.mark.parametrize(("kind", "precision"), EXPECTED)
def test_what_lower_precision_costs(
    library: ProcessPoolExecutor, models: dict[str, Path], mixture: Path, scratch: Path, kind: str, precision: Precision
) -> None:
    def stems(precision: Precision) -> driving.Stems:
        options, where = DeviceOptions(precision), (models[kind], mixture, scratch)
        given: driving.Stems
        match kind:
            case "mdx":
                given = library.submit(driving.driven_stems, *where, model="mdx.onnx", options=options).result(90)
            case "vr":
                given = library.submit(vr_experiments.driven, *where, f"{LAYOUT}.pth", options=options).result(90)
            case _:
                run = library.submit(driving.mdxc_run, *where, model=f"{kind}.ckpt", options=options).result(90)
                given = run.stems
        return given

    exact, rough = stems(Precision.FP32), stems(precision)
    least, most = EXPECTED[kind, precision]
    assert all(stem.dtype == np.float32 for stem in rough.values())
    assert least < min(sdr_db(stem, rough[name]) for name, stem in exact.items()) < most


def test_a_network_that_torch_runs_gives_what_onnx_runtime_gives(
    library: ProcessPoolExecutor, models: dict[str, Path], mixture: Path, scratch: Path
) -> None:
    """That is where it may be compiled; without CUDA there are no graphs, and it runs as it is."""
    where = (models["mdx"], mixture, scratch)
    onnx = library.submit(driving.driven_stems, *where, model="mdx.onnx").result(90)
    options = DeviceOptions(compile=Compile.GRAPHS)
    torch = library.submit(driving.driven_stems, *where, model="mdx.onnx", options=options).result(90)
    for name, stem in onnx.items():
        assert sdr_db(stem, torch[name]) > 90
    assert any(not np.array_equal(torch[name], stem) for name, stem in onnx.items())


@pytest.mark.parametrize(("power", "decibels"), [(1.0, 0.0), (1e-6, 60.0), (float("nan"), -np.inf), (0.0, np.inf)])
def test_signal_to_noise(library: ProcessPoolExecutor, power: float, decibels: float) -> None:
    found = library.submit(experiments.signal_to_noise, power).result(60)
    assert found == pytest.approx(decibels, abs=0.1)


def test_what_overflows_is_run_again_in_float32(library: ProcessPoolExecutor) -> None:
    same, events = library.submit(experiments.overflowing, Precision.FP16).result(60)
    assert same
    assert events == ["network_overflowed"]  # once, however often


@pytest.mark.parametrize(
    ("candidates", "choice"),
    [
        pytest.param((Precision.FP16, Precision.BF16), Precision.FP16, id="the first that is near enough"),
        pytest.param((Precision.BF16,), Precision.FP32, id="none is"),
        pytest.param((Precision.BF16, Precision.TF32), Precision.TF32, id="the second"),
    ],
)
def test_the_choice_of_a_precision_is_measured(
    library: ProcessPoolExecutor, candidates: tuple[Precision, ...], choice: Precision
) -> None:
    assert library.submit(experiments.best_of, *candidates).result(60) == choice


@pytest.mark.parametrize("precision", [Precision.AUTO, Precision.FP32, Precision.TF32])
def test_products_are_rounded_to_tf32_only_if_somebody_wants_it(
    library: ProcessPoolExecutor, precision: Precision
) -> None:
    before, inside, after = library.submit(experiments.flags, precision).result(60)
    wanted = precision is Precision.TF32
    assert (before["matmul tf32"], before["cudnn tf32"]) == (wanted, wanted)
    if precision is not Precision.AUTO:  # a network has a precision by then
        assert inside == {"matmul tf32": wanted, "cudnn tf32": wanted, "sums in half": False, "any algorithm": False}
    assert after == before


def test_every_batch_has_one_size(library: ProcessPoolExecutor) -> None:
    sent = library.submit(experiments.padded_batches, 5, 2).result(60)
    assert sent == [(2, [[1, 1], [2, 2]]), (2, [[3, 3], [4, 4]]), (1, [[5, 5], [0, 0]])]
    assert library.submit(experiments.padded_batches, 0, 2).result(60) == []


@pytest.mark.parametrize(("kind", "compiler"), [(Compile.INDUCTOR, "/no/such/compiler"), (Compile.GRAPHS, None)])
def test_what_does_not_compile_runs_as_it_is(
    library: ProcessPoolExecutor, tmp_path: Path, kind: Compile, compiler: str | None
) -> None:
    """No compiler; no CUDA."""
    found, events = library.submit(experiments.compiling, kind, tmp_path, compiler=compiler).result(110)
    assert found == np.inf
    assert events == ["compile_failed"]


def test_without_tensorrt_it_says_so(library: ProcessPoolExecutor, models: dict[str, Path], scratch: Path) -> None:
    options = DeviceOptions(Precision.FP16, tensorrt=True)
    said = library.submit(experiments.refusal, models["mdx"], scratch, options).result(60)
    assert said.startswith("device_unavailable: TENSORRT is set, but ONNX Runtime cannot use it")


@pytest.mark.parametrize(("precision", "tf32"), [(Precision.AUTO, "0"), (Precision.FP32, "0"), (Precision.TF32, "1")])
def test_onnx_runtime_is_told_whether_it_may_round(
    library: ProcessPoolExecutor, tmp_path: Path, precision: Precision, tf32: str
) -> None:
    options = DeviceOptions(precision)
    ((provider, chosen),) = library.submit(experiments.configured, options, tmp_path, CUDA).result(60)
    assert (provider, chosen["use_tf32"]) == (CUDA, tf32)
    cpu = "CPUExecutionProvider"
    assert library.submit(experiments.configured, options, tmp_path, cpu).result(60) == [cpu]


def test_engines_are_kept_for_each_models_weights(library: ProcessPoolExecutor, tmp_path: Path) -> None:
    """Or for none, if model files are encrypted: an engine has the weights in it."""

    def chosen(weights: bytes, engines: Path | None) -> dict[str, str]:
        (tmp_path / "model.onnx").write_bytes(weights)
        options = DeviceOptions(Precision.FP16, tensorrt=True, engines=engines)
        first, second = library.submit(experiments.configured, options, tmp_path / "model.onnx", CUDA).result(60)
        assert (first[0], second[0]) == (TENSORRT, CUDA)
        return dict(first[1])

    one, other, none = chosen(b"one", tmp_path / "kept"), chosen(b"other", tmp_path / "kept"), chosen(b"one", None)
    assert one["trt_fp16_enable"] == one["trt_engine_cache_enable"] == "True"
    assert one["trt_engine_cache_path"] != other["trt_engine_cache_path"]
    assert Path(one["trt_engine_cache_path"]).parent == tmp_path / "kept"
    assert none["trt_engine_cache_enable"] == "False"
    assert "trt_engine_cache_path" not in none
