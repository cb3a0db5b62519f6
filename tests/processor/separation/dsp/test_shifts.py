"""Where the segments of a Demucs model are, and the mean and spread of a song in blocks."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.audio.wav import Samples
from processor.separation.dsp.running_stats import RunningStats
from processor.separation.dsp.shifts import ShiftedPass, ShiftedSegmentation

walks = st.builds(
    ShiftedPass,
    frames=st.integers(1, 400),
    lead=st.integers(0, 60),
    segment=st.integers(20, 90),
    stride=st.integers(5, 20),
)


@given(walk=walks)
def test_segments_cover_the_song_and_end_with_it(walk: ShiftedPass) -> None:
    segments = [walk[number] for number in range(walk.count)]
    covered = np.zeros(walk.frames + walk.lead)
    for segment in segments:
        assert segment.size > 0
        assert segment.start + segment.size <= walk.frames
        covered[walk.lead + segment.start :][: segment.size] += 1
    assert covered.min() > 0
    assert [segment.size for segment in segments] == sorted((segment.size for segment in segments), reverse=True)


@given(walk=walks, end=st.integers(1, 400))
def test_what_is_needed_up_to_a_place_is_what_begins_before_it(walk: ShiftedPass, end: int) -> None:
    end = min(end, walk.frames)
    assert walk.needed(end) == sum(walk[number].start < end for number in range(walk.count))


@pytest.mark.parametrize("rolls", [True, False])
def test_shifts_are_drawn_between_the_numbers_that_networks_draw(rolls: bool) -> None:
    dice = random.Random(7)
    cut = ShiftedSegmentation(segment=100, stride=75, shifts=3, longest=50, rolls=rolls)
    leads = [walk.lead for walk in cut.walks(1000, dice)]

    again = random.Random(7)
    for lead in leads:
        assert lead == 50 - again.randint(0, 50)
        for _ in range(-(-(1000 + lead) // 75) if rolls else 0):
            again.randrange(1)
    assert dice.getstate() == again.getstate()


def test_without_shifts_there_is_one_walk_from_the_beginning() -> None:
    (walk,) = ShiftedSegmentation(segment=100, stride=75, shifts=0, longest=50, rolls=True).walks(
        1000, random.Random(0)
    )
    assert (walk.lead, walk.count) == (0, 14)


def moments_of(samples: Samples, block: int) -> RunningStats:
    moments = RunningStats()
    for start in range(0, len(samples), block):
        moments.add(samples[start : start + block])
    return moments


@given(frames=st.integers(2, 300), block=st.integers(1, 70), offset=st.sampled_from([0.0, 0.5, 1000.0]))
def test_moments_of_blocks_are_those_of_the_whole(frames: int, block: int, offset: float) -> None:
    samples = (np.random.default_rng(frames).uniform(-1.0, 1.0, frames) + offset).astype(np.float32)
    moments = moments_of(samples, block)
    assert moments.mean == pytest.approx(np.mean(samples, dtype=np.float64), rel=1e-12, abs=1e-15)
    assert moments.std == pytest.approx(np.std(samples, ddof=1, dtype=np.float64), rel=1e-9)


@pytest.mark.parametrize("level", [0.0, 0.1, -0.7, 1.0])
def test_what_is_constant_has_no_spread(level: float) -> None:
    moments = moments_of(np.full(1000, level, np.float32), 77)
    assert moments.mean == pytest.approx(np.float32(level), rel=1e-15)
    assert moments.std < 1e-15


def test_a_single_sample_has_no_spread() -> None:
    moments = moments_of(np.full(1, 0.3, np.float32), 1)
    assert (moments.mean, moments.std) == (float(np.float32(0.3)), 0.0)
