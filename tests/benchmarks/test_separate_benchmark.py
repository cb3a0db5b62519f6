"""The harness of `make bench-separate`: a run and the report."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.separate.names import COMMAND, ENGINE, UPSTREAM
from benchmarks.separate.report import BEGIN, END, THREADS_BEGIN, THREADS_END, separation_page, threads_markdown
from benchmarks.separate.rows import ROWS, Samples, run_separation_row
from benchmarks.separate.threads import arrangements
from benchmarks.separate.workers import SeparationSample
from processor.system.cpu import THREADS
from processor.system.ffmpeg import put_ffmpeg_on_path

MIB = 1 << 20
DEMO, LARGE, _ = ROWS

SAMPLES: Samples = {
    ENGINE: [
        SeparationSample(2.0, 300 * MIB, 1.8),
        SeparationSample(1.0, 310 * MIB, 0.9),
        SeparationSample(4.0, 310 * MIB, 3.6),
    ],
    UPSTREAM: [SeparationSample(6.0, 900 * MIB, 1.8)],
    COMMAND: [SeparationSample(16.0, 950 * MIB)],
}


def test_report_compares_medians() -> None:
    text = separation_page([(replace(DEMO, seconds=60.0), SAMPLES)], quick=False)
    assert "### The demo model, a song of 60 s" in text
    assert "| **this engine** | 2.00 | 1.00 – 4.00 | 3.00 | 30.0 | 90% | 310 | 3 |" in text
    assert "| audio-separator, in process, warm | 6.00 | 6.00 – 6.00 | 1.00 | 10.0 | 30% | 900 | 1 |" in text
    assert "| the command, per file | 16.00 | 16.00 – 16.00 | 0.38 | 3.8 |  | 950 | 1 |" in text
    assert "quick run" not in text


def test_quick_run_is_marked_in_the_report() -> None:
    assert "**A quick run" in separation_page([(LARGE.quick(), SAMPLES)], quick=True)
    assert LARGE.quick().repeats == 1


def test_page_in_the_repository_has_the_markers() -> None:
    page = (Path(__file__).parents[2] / "docs" / "BENCHMARKS.md").read_text()
    assert page.count(BEGIN) == page.count(END) == 1
    assert page.count(THREADS_BEGIN) == page.count(THREADS_END) == 1


def test_arrangements_are_compared_with_the_first() -> None:
    own, loops, *_ = arrangements(4)
    assert (own.processes, own.threads, own.contender) == (1, 4, ENGINE)
    text = threads_markdown({own: {"a model": [100.0, 300.0]}, loops: {"a model": [50.0, 50.0]}}, quick=True)
    assert "| songs per hour | a model |" in text
    assert f"| {own.title} | 200 (100%) |" in text
    assert f"| {loops.title} | 50 (25%) |" in text


def test_arrangement_sets_threads_except_for_the_libraries_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(THREADS, "9")
    own, loops, *_ = arrangements(4)
    assert own.environment()[THREADS] == "4"
    assert THREADS not in loops.environment()
    assert os.environ["PATH"] == own.environment()["PATH"] == loops.environment()["PATH"]


@pytest.mark.slow
def test_warm_contenders_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"])  # restored after the test
    put_ffmpeg_on_path(tmp_path)
    samples = run_separation_row(replace(DEMO, seconds=2.0, repeats=1, commands=0), tmp_path)
    for name in (ENGINE, UPSTREAM):
        (sample,) = samples[name]
        assert sample.in_network is not None
        assert 0 < sample.in_network < sample.wall
        assert sample.peak > 50 * MIB
    assert {path.name for path in (tmp_path / ENGINE).glob("*.wav")} >= {"vocals.wav", "instrumental.wav"}
