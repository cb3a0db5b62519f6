"""Segmentation and overlap-add of a stream give the same result as for a whole song in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processor.audio.wav import Samples, write_wav
from processor.separation.dsp.overlap_add import OverlapAdd, read_segments
from processor.separation.dsp.segmentation import (
    Segmentation,
    anchored_segmentation,
    padded_segmentation,
    trimmed_segmentation,
)


@dataclass(frozen=True)
class Trimmed:
    """The parameters of ``trimmed_segmentation``."""

    frames: int
    segment: int
    overlap: float
    trim: int

    def segmentation(self) -> Segmentation:
        return trimmed_segmentation(self.frames, self.segment, self.overlap, self.trim)


@dataclass(frozen=True)
class Anchored:
    """The parameters of ``anchored_segmentation``."""

    frames: int
    chunk: int
    step: int

    def segmentation(self) -> Segmentation:
        return anchored_segmentation(self.frames, self.chunk, self.step)


trimmed = st.builds(
    Trimmed,
    frames=st.integers(1, 400),
    segment=st.integers(20, 90),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75]),
    trim=st.integers(1, 9),
)
lengths, sizes, steps = st.integers(1, 400), st.integers(1, 90), st.integers(1, 90)
anchored = st.builds(
    lambda frames, chunk, step: Anchored(frames, chunk, min(step, chunk)), frames=lengths, chunk=sizes, step=steps
)
padded = st.builds(
    lambda frames, segment, step: padded_segmentation(frames, segment, min(step, segment)),
    frames=lengths,
    segment=sizes,
    step=steps,
)
segmentations = trimmed.map(Trimmed.segmentation) | anchored.map(Anchored.segmentation) | padded


def song_of(frames: int) -> Samples:
    """Return ``(frames, channels)``."""
    return np.random.default_rng(frames).uniform(-1.0, 1.0, (frames, 2)).astype(np.float32)


def network(segment: Samples) -> Samples:
    """Return an output that is nowhere zero, and that depends on the position in the segment."""
    slope = np.linspace(0.5, 1.5, segment.shape[1], dtype=np.float32)
    return np.tanh(segment) * slope + np.float32(0.1)


def in_memory(song: Samples, parameters: Trimmed) -> Samples:
    """Return the result of the published algorithm over the whole song: padding, all segments, trimming."""
    segment, trim = parameters.segment, parameters.trim
    kept = segment - 2 * trim
    behind = kept + trim - parameters.frames % kept
    padded_song = np.pad(song.T, ((0, 0), (trim, behind)))
    length, step = padded_song.shape[1], int((1 - parameters.overlap) * segment)
    total, weights = np.zeros((2, length), np.float32), np.zeros((2, length), np.float32)
    for start in range(0, length, step):
        end = min(start + segment, length)
        part = np.pad(padded_song[:, start:end], ((0, 0), (0, segment - (end - start))))
        window = np.hanning(end - start) if parameters.overlap else np.ones(end - start)
        output = network(part)[:, : end - start]
        output *= window
        total[:, start:end] += output
        weights[:, start:end] += window
    with np.errstate(invalid="ignore"):
        whole: Samples = (total / weights)[:, trim : trim + parameters.frames]
    return whole


def streamed(path: Path, segmentation: Segmentation, network: Callable[[Samples], Samples] = network) -> Samples:
    overlap_add = OverlapAdd(segmentation)
    with soundfile.SoundFile(path) as song:
        blocks = [overlap_add.add(network(segment)) for segment in read_segments(song, segmentation)]
    return np.concatenate(blocks, axis=1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(parameters=trimmed)
def test_streaming_equals_the_whole_song_bit_for_bit(tmp_path: Path, parameters: Trimmed) -> None:
    song = song_of(parameters.frames)
    write_wav(tmp_path / "song.wav", [song], channels=2)
    result = streamed(tmp_path / "song.wav", parameters.segmentation())
    np.testing.assert_array_equal(result, in_memory(song, parameters))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(segmentation=segmentations)
def test_identity_network_returns_the_song(tmp_path: Path, segmentation: Segmentation) -> None:
    song = song_of(segmentation.frames)
    write_wav(tmp_path / "song.wav", [song], channels=2)
    np.testing.assert_allclose(streamed(tmp_path / "song.wav", segmentation, np.array).T, song, rtol=0, atol=1e-5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(segmentation=segmentations)
def test_several_stems_are_added_independently(tmp_path: Path, segmentation: Segmentation) -> None:
    song = song_of(segmentation.frames)
    write_wav(tmp_path / "song.wav", [song], channels=2)
    overlap_add = OverlapAdd(segmentation, (2,))
    with soundfile.SoundFile(tmp_path / "song.wav") as file:
        pairs = [
            overlap_add.add(np.stack([network(segment), segment])) for segment in read_segments(file, segmentation)
        ]
    both = np.concatenate(pairs, axis=-1)
    np.testing.assert_array_equal(both[0], streamed(tmp_path / "song.wav", segmentation, network))
    np.testing.assert_array_equal(both[1], streamed(tmp_path / "song.wav", segmentation, np.array))


@given(segmentation=segmentations)
def test_every_segment_starts_in_the_song_and_the_last_one_reaches_its_end(segmentation: Segmentation) -> None:
    end = segmentation.padding + segmentation.frames
    last = segmentation.count - 1
    assert segmentation.start(last) < end <= segmentation.start(last) + segmentation.size(last)


@given(parameters=trimmed)
def test_trimmed_padding_ends_after_the_song(parameters: Trimmed) -> None:
    segmentation = parameters.segmentation()
    end = parameters.trim + parameters.frames
    assert end < segmentation.length
    assert end <= (segmentation.count - 1) * segmentation.step + segmentation.step


@given(parameters=anchored)
def test_anchored_segments_are_the_published_ones(parameters: Anchored) -> None:
    frames, chunk = parameters.frames, parameters.chunk
    starts = []
    for start in range(0, frames, parameters.step):
        if start + chunk >= frames:
            starts.append(max(frames - chunk, 0))
            break
        starts.append(start)
    segmentation = parameters.segmentation()
    assert [segmentation.start(number) for number in range(segmentation.count)] == starts


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_rejected(tmp_path: Path, number: float) -> None:
    song = song_of(300)
    song[250, 1] = number
    write_wav(tmp_path / "song.wav", [song], channels=2)
    segmentation = trimmed_segmentation(frames=300, segment=64, overlap=0.25, trim=4)
    with soundfile.SoundFile(tmp_path / "song.wav") as file, pytest.raises(ValueError, match="not finite"):
        list(read_segments(file, segmentation))
