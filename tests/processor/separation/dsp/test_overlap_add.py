"""A song cut into segments and put together again is what it would be if it were all in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processor.audio.wav import Samples, write_wav
from processor.separation.dsp.overlap_add import OverlapAdd, segments
from processor.separation.dsp.segmentation import (
    AnchoredSegmentation,
    PaddedSegmentation,
    Segmentation,
    TrimmedSegmentation,
)

grids = st.builds(
    TrimmedSegmentation,
    frames=st.integers(1, 400),
    segment=st.integers(20, 90),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75]),
    trim=st.integers(1, 9),
)

steps = st.builds(
    lambda cut, frames, segment, step: cut(frames, segment, min(step, segment)),
    cut=st.sampled_from([PaddedSegmentation, AnchoredSegmentation]),
    frames=st.integers(1, 400),
    segment=st.integers(1, 90),
    step=st.integers(1, 90),
)
cuts = grids | steps


def song_of(frames: int) -> Samples:
    """``(frames, channels)``."""
    return np.random.default_rng(frames).uniform(-1.0, 1.0, (frames, 2)).astype(np.float32)


def network(segment: Samples) -> Samples:
    """Something whose output is nowhere zero, and differs with the place in the segment."""
    slope = np.linspace(0.5, 1.5, segment.shape[1], dtype=np.float32)
    return np.tanh(segment) * slope + np.float32(0.1)


def in_memory(song: Samples, grid: TrimmedSegmentation) -> Samples:
    """The published way, over the whole song: padded, all segments, cut at the end."""
    kept = grid.segment - 2 * grid.trim
    behind = kept + grid.trim - grid.frames % kept
    padded = np.pad(song.T, ((0, 0), (grid.trim, behind)))
    length, step = padded.shape[1], int((1 - grid.overlap) * grid.segment)
    total, weights = np.zeros((2, length), np.float32), np.zeros((2, length), np.float32)
    for start in range(0, length, step):
        end = min(start + grid.segment, length)
        part = np.pad(padded[:, start:end], ((0, 0), (0, grid.segment - (end - start))))
        window = np.hanning(end - start) if grid.overlap else np.ones(end - start)
        output = network(part)[:, : end - start]
        output *= window
        total[:, start:end] += output
        weights[:, start:end] += window
    with np.errstate(invalid="ignore"):
        whole: Samples = (total / weights)[:, grid.trim : grid.trim + grid.frames]
    return whole


def streamed(path: Path, cut: Segmentation, network: Callable[[Samples], Samples] = network) -> Samples:
    total = OverlapAdd(cut)
    with soundfile.SoundFile(path) as song:
        return np.concatenate([total.add(network(segment)) for segment in segments(song, cut)], axis=1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(grid=grids)
def test_the_same_bits_as_over_the_whole_song(tmp_path: Path, grid: TrimmedSegmentation) -> None:
    song = song_of(grid.frames)
    write_wav(tmp_path / "song.wav", [song], channels=2)
    np.testing.assert_array_equal(streamed(tmp_path / "song.wav", grid), in_memory(song, grid))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cut=cuts)
def test_what_lets_all_pass_gives_the_song_back_however_it_is_cut(tmp_path: Path, cut: Segmentation) -> None:
    song = song_of(cut.frames)
    write_wav(tmp_path / "song.wav", [song], channels=2)
    np.testing.assert_allclose(streamed(tmp_path / "song.wav", cut, np.array).T, song, rtol=0, atol=1e-5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cut=cuts)
def test_several_stems_are_added_up_each_for_itself(tmp_path: Path, cut: Segmentation) -> None:
    song = song_of(cut.frames)
    write_wav(tmp_path / "song.wav", [song], channels=2)
    total = OverlapAdd(cut, (2,))
    with soundfile.SoundFile(tmp_path / "song.wav") as file:
        pairs = [total.add(np.stack([network(segment), segment])) for segment in segments(file, cut)]
    both = np.concatenate(pairs, axis=-1)
    np.testing.assert_array_equal(both[0], streamed(tmp_path / "song.wav", cut, network))
    np.testing.assert_array_equal(both[1], streamed(tmp_path / "song.wav", cut, np.array))


@given(cut=cuts)
def test_no_segment_begins_behind_the_song_and_the_last_one_reaches_its_end(cut: Segmentation) -> None:
    end = cut.lead + cut.frames
    last = cut.count - 1
    assert cut.start(last) < end <= cut.start(last) + cut.size(last)


@given(grid=grids)
def test_the_padding_of_a_grid_ends_behind_the_song(grid: TrimmedSegmentation) -> None:
    assert grid.trim + grid.frames < grid.length
    assert grid.trim + grid.frames <= (grid.count - 1) * grid.step + grid.step


@given(cut=steps.filter(lambda cut: isinstance(cut, AnchoredSegmentation)))
def test_an_anchored_cut_is_the_published_one(cut: AnchoredSegmentation) -> None:
    starts = []
    for start in range(0, cut.frames, cut.step):
        if start + cut.chunk >= cut.frames:
            starts.append(max(cut.frames - cut.chunk, 0))
            break
        starts.append(start)
    assert [cut.start(number) for number in range(cut.count)] == starts


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path: Path, number: float) -> None:
    song = song_of(300)
    song[250, 1] = number
    write_wav(tmp_path / "song.wav", [song], channels=2)
    grid = TrimmedSegmentation(frames=300, segment=64, overlap=0.25, trim=4)
    with soundfile.SoundFile(tmp_path / "song.wav") as file, pytest.raises(ValueError, match="no numbers"):
        list(segments(file, grid))
