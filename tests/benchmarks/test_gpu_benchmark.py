"""The harness of `make bench-gpu`: measurements, report, and the error without a GPU."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu.figures import Figures, Spec
from benchmarks.gpu.networks import NETWORKS
from benchmarks.gpu.report import BEGIN, END, gpu_page
from benchmarks.gpu.variants import DEFAULT, REFERENCE, UPSTREAM, Variant, variants
from config import Precision
from processor.audio.wav import SAMPLE_RATE, write_wav

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
MDX = NETWORKS[0]

FIGURES = Figures([2.0, 4.0, 3.0], 12.0, "a GPU", 512 * MIB, 2048 * MIB, 0.95, 300.0, 61.24)


@pytest.fixture(scope="module")
def worker() -> Iterator[ProcessPoolExecutor]:
    """A process that may import torch."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


def measured(spec: Spec) -> Figures:
    """Run the benchmark's worker in the test's worker process."""
    from benchmarks.gpu.worker import run

    return run(spec)


def test_report_has_a_line_for_each_variant() -> None:
    upstream = Variant(UPSTREAM, "audio-separator")
    results: dict[str, tuple[Variant, Figures | str]] = {
        "fp32": (REFERENCE, FIGURES),
        "upstream": (upstream, Figures([6.0], 7.0, "a GPU", None, None, None, None, None)),
        "auto": (DEFAULT, "ended with status 1"),
    }
    text = gpu_page([(MDX, results)], 60.0, quick=False)
    assert "On a GPU; a song of 60 s." in text
    assert "| this engine, fp32 | 20.0 | 3.00 | 2.00 | 95% | 300 | 512 | 2048 | 61.2 | 9.0 |" in text
    assert "| audio-separator | 10.0 | 6.00 | 1.00 |  |  |  |  |  | 1.0 |" in text
    assert "| **this engine, defaults** | ended with status 1 |  |  |  |  |  |  |  |  |" in text
    assert "quick run" not in text
    assert "**A quick run" in gpu_page([(MDX, results)], 60.0, quick=True)


def test_reference_is_measured_first() -> None:
    for network in NETWORKS:
        names = [variant.name for variant in variants(network)]
        assert names[:2] == [REFERENCE.name, UPSTREAM]
        assert len(names) == len(set(names))


@pytest.mark.slow
def test_worker_compares_with_the_reference(worker: ProcessPoolExecutor, tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    samples = np.random.default_rng(0).uniform(-1.0, 1.0, (SAMPLE_RATE, 2)).astype(np.float32)
    write_wav(song, [samples], channels=2)
    model = MDX.small(tmp_path / "models")

    def figures(variant: str, precision: Precision, reference: str | None) -> Figures:
        folder = tmp_path / variant
        folder.mkdir()
        models, own = str(tmp_path / "models"), str(folder)
        spec = Spec(models, model, variant, precision, "none", str(song), own, repeats=2, reference=reference)
        found: Figures = worker.submit(measured, spec).result(90)
        return found

    reference = figures("fp32", Precision.FP32, None)
    same = figures("again", Precision.AUTO, str(tmp_path / "fp32"))
    rough = figures("bf16", Precision.BF16, str(tmp_path / "fp32"))
    assert (len(reference.walls), reference.snr) == (2, None)
    assert same.snr == np.inf
    assert rough.snr is not None
    assert 20 < rough.snr < 60


def test_missing_gpu_is_an_error() -> None:
    command = (sys.executable, "-m", "benchmarks.gpu")
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (69, "")
    assert "There is no GPU here" in done.stderr


def test_page_in_the_repository_has_the_markers() -> None:
    page = (ROOT / "docs" / "BENCHMARKS.md").read_text()
    assert page.count(BEGIN) == page.count(END) == 1
