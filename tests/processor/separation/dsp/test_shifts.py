"""Segments and random shifts of Demucs models, and running statistics."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.audio.wav import Samples
from processor.separation.dsp.running_stats import RunningStats
from processor.separation.dsp.shifts import ShiftedPass, ShiftedSegmentation

passes = st.builds(
    ShiftedPass,
    frames=st.integers(1, 400),
    padding=st.integers(0, 60),
    segment=st.integers(20, 90),
    stride=st.integers(5, 20),
)


@given(shifted=passes)
def test_segments_cover_the_song_and_end_with_it(shifted: ShiftedPass) -> None:
    segments = [shifted[number] for number in range(shifted.count)]
    covered = np.zeros(shifted.frames + shifted.padding)
    for segment in segments:
        assert segment.size > 0
        assert segment.start + segment.size <= shifted.frames
        covered[shifted.padding + segment.start :][: segment.size] += 1
    assert covered.min() > 0
    assert [segment.size for segment in segments] == sorted((segment.size for segment in segments), reverse=True)


@given(shifted=passes, end=st.integers(1, 400))
def test_needed_segments_are_those_that_start_before_the_end(shifted: ShiftedPass, end: int) -> None:
    end = min(end, shifted.frames)
    assert shifted.needed(end) == sum(shifted[number].start < end for number in range(shifted.count))


@pytest.mark.parametrize("draws_random", [True, False])
def test_shifts_are_drawn_between_the_draws_of_the_network(draws_random: bool) -> None:
    rng = random.Random(7)
    segmentation = ShiftedSegmentation(segment=100, stride=75, shifts=3, max_shift=50, draws_random=draws_random)
    paddings = [shifted.padding for shifted in segmentation.passes(1000, rng)]

    expected = random.Random(7)
    for padding in paddings:
        assert padding == 50 - expected.randint(0, 50)
        for _ in range(-(-(1000 + padding) // 75) if draws_random else 0):
            expected.randrange(1)
    assert rng.getstate() == expected.getstate()


def test_without_shifts_there_is_one_unshifted_pass() -> None:
    segmentation = ShiftedSegmentation(segment=100, stride=75, shifts=0, max_shift=50, draws_random=True)
    (shifted,) = segmentation.passes(1000, random.Random(0))
    assert (shifted.padding, shifted.count) == (0, 14)


def stats_of(samples: Samples, block: int) -> RunningStats:
    stats = RunningStats()
    for start in range(0, len(samples), block):
        stats.add(samples[start : start + block])
    return stats


@given(frames=st.integers(2, 300), block=st.integers(1, 70), offset=st.sampled_from([0.0, 0.5, 1000.0]))
def test_running_stats_equal_those_of_the_whole(frames: int, block: int, offset: float) -> None:
    samples = (np.random.default_rng(frames).uniform(-1.0, 1.0, frames) + offset).astype(np.float32)
    stats = stats_of(samples, block)
    assert stats.mean == pytest.approx(np.mean(samples, dtype=np.float64), rel=1e-12, abs=1e-15)
    assert stats.std == pytest.approx(np.std(samples, ddof=1, dtype=np.float64), rel=1e-9)


@pytest.mark.parametrize("level", [0.0, 0.1, -0.7, 1.0])
def test_constant_has_no_deviation(level: float) -> None:
    stats = stats_of(np.full(1000, level, np.float32), 77)
    assert stats.mean == pytest.approx(np.float32(level), rel=1e-15)
    assert stats.std < 1e-15


def test_single_sample_has_no_deviation() -> None:
    stats = stats_of(np.full(1, 0.3, np.float32), 1)
    assert (stats.mean, stats.std) == (float(np.float32(0.3)), 0.0)
