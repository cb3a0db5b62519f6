"""Scores of stems, of which the truth is known in closed form. In another process: torchmetrics imports torch."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict

import numpy as np
import pytest

from demo.sdr import sdr_db
from processor.audio.wav import Samples

pytestmark = pytest.mark.slow

FRAMES = 4096


def scored(name: str, estimate: Samples, stems: dict[str, Samples], mixture: Samples) -> dict[str, float | None]:
    from benchmarks.quality.scores import score

    return asdict(score(name, estimate, stems, mixture))


class Judge:
    """Songs of sines that have nothing in common: their energies add up."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool
        self.voice, self.band, self.artefact = (_sines(first) for first in (10, 100, 200))

    def score(
        self, estimate: Samples, name: str = "voice", stems: dict[str, Samples] | None = None
    ) -> dict[str, float | None]:
        """``estimate`` against the stem ``name`` of a song of ``stems``, by default the voice and the band."""
        stems = stems or {"voice": self.voice, "band": self.band}
        mixture = np.sum(list(stems.values()), axis=0)
        return self._pool.submit(scored, name, estimate, stems, mixture).result(60)


def _sines(first: int) -> Samples:
    """Two channels, different ones, each of the same energy; float32 ``(samples, 2)``."""
    turns = np.arange(FRAMES)[:, None] * np.array([first, first + 1]) / FRAMES
    return np.asarray(np.sin(2 * np.pi * turns), np.float32)


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield Judge(pool)


def test_a_wrong_level_costs_sdr_and_nothing_else(judge: Judge) -> None:
    scores = judge.score(np.float32(0.5) * judge.voice + np.float32(0.01) * judge.artefact)
    assert scores["sdr"] == pytest.approx(-10 * math.log10(0.25 + 1e-4), abs=1e-3)
    assert scores["si_sdr"] == pytest.approx(10 * math.log10(0.25 / 1e-4), abs=1e-3)


def test_interference_is_what_the_other_stems_account_for(judge: Judge) -> None:
    scores = judge.score(judge.voice + np.float32(0.1) * judge.band + np.float32(0.5) * judge.artefact)
    assert scores["sir"] == pytest.approx(20, abs=1e-3)
    assert scores["sdr"] == pytest.approx(-10 * math.log10(0.26), abs=1e-3)


def test_interference_may_come_from_the_other_side(judge: Judge) -> None:
    scores = judge.score(judge.voice + np.float32(0.1) * judge.band[:, ::-1])
    assert scores["sir"] == pytest.approx(20, abs=1e-3)


def test_a_band_in_mono_is_one_channel(judge: Judge) -> None:
    mono = np.repeat(judge.band[:, :1], 2, axis=1)
    scores = judge.score(judge.voice + np.float32(0.1) * mono, stems={"voice": judge.voice, "band": mono})
    assert scores["sir"] == pytest.approx(20, abs=1e-3)


def test_sdr_is_the_demo_s(judge: Judge) -> None:
    noise = np.random.default_rng(1).normal(0, 0.3, (FRAMES, 2)).astype(np.float32)
    assert judge.score(judge.voice + noise)["sdr"] == pytest.approx(sdr_db(judge.voice.T, (judge.voice + noise).T))


def test_what_should_be_silent_is_measured_against_the_mixture(judge: Judge) -> None:
    silent = np.zeros_like(judge.voice)
    stems = {"voice": silent, "band": judge.band}
    leak = judge.score(np.float32(0.1) * judge.band, stems=stems)
    assert leak == {"sdr": None, "si_sdr": None, "sir": None, "leak": pytest.approx(-20, abs=1e-3)}
    assert judge.score(silent, stems=stems)["leak"] == pytest.approx(-120)
    assert judge.score(judge.voice, "band", stems)["sir"] is None
