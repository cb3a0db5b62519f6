"""Scores of stems with known results. They run in another process, because torchmetrics imports torch."""

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


class Scorer:
    """Scores songs of orthogonal sines, whose energies add up."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool
        self.voice, self.band, self.artefact = (_sines(first) for first in (10, 100, 200))

    def score(
        self, estimate: Samples, name: str = "voice", stems: dict[str, Samples] | None = None
    ) -> dict[str, float | None]:
        """Score ``estimate`` against the stem ``name`` of a song of ``stems``; default: the voice and the band."""
        stems = stems or {"voice": self.voice, "band": self.band}
        mixture = np.sum(list(stems.values()), axis=0)
        return self._pool.submit(scored, name, estimate, stems, mixture).result(60)


def _sines(first: int) -> Samples:
    """Return two different channels of equal energy, float32 ``(samples, 2)``."""
    cycles = np.arange(FRAMES)[:, None] * np.array([first, first + 1]) / FRAMES
    return np.asarray(np.sin(2 * np.pi * cycles), np.float32)


@pytest.fixture(scope="module")
def scorer() -> Iterator[Scorer]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield Scorer(pool)


def test_wrong_level_lowers_only_sdr(scorer: Scorer) -> None:
    scores = scorer.score(np.float32(0.5) * scorer.voice + np.float32(0.01) * scorer.artefact)
    assert scores["sdr"] == pytest.approx(-10 * math.log10(0.25 + 1e-4), abs=1e-3)
    assert scores["si_sdr"] == pytest.approx(10 * math.log10(0.25 / 1e-4), abs=1e-3)


def test_interference_is_the_part_explained_by_other_stems(scorer: Scorer) -> None:
    scores = scorer.score(scorer.voice + np.float32(0.1) * scorer.band + np.float32(0.5) * scorer.artefact)
    assert scores["sir"] == pytest.approx(20, abs=1e-3)
    assert scores["sdr"] == pytest.approx(-10 * math.log10(0.26), abs=1e-3)


def test_interference_from_the_other_channel(scorer: Scorer) -> None:
    scores = scorer.score(scorer.voice + np.float32(0.1) * scorer.band[:, ::-1])
    assert scores["sir"] == pytest.approx(20, abs=1e-3)


def test_mono_band_counts_as_one_channel(scorer: Scorer) -> None:
    mono = np.repeat(scorer.band[:, :1], 2, axis=1)
    scores = scorer.score(scorer.voice + np.float32(0.1) * mono, stems={"voice": scorer.voice, "band": mono})
    assert scores["sir"] == pytest.approx(20, abs=1e-3)


def test_sdr_equals_the_demo_s(scorer: Scorer) -> None:
    noise = np.random.default_rng(1).normal(0, 0.3, (FRAMES, 2)).astype(np.float32)
    assert scorer.score(scorer.voice + noise)["sdr"] == pytest.approx(sdr_db(scorer.voice.T, (scorer.voice + noise).T))


def test_leak_is_relative_to_the_mixture(scorer: Scorer) -> None:
    silent = np.zeros_like(scorer.voice)
    stems = {"voice": silent, "band": scorer.band}
    leak = scorer.score(np.float32(0.1) * scorer.band, stems=stems)
    assert leak == {"sdr": None, "si_sdr": None, "sir": None, "leak": pytest.approx(-20, abs=1e-3)}
    assert scorer.score(silent, stems=stems)["leak"] == pytest.approx(-120)
    assert scorer.score(scorer.voice, "band", stems)["sir"] is None
