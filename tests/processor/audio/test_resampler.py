"""The conversion of the sample rate: exact lengths, no delay, and the quality that docs/AUDIO.md states."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.resampling.measures import RATES, alias_level, decoded_song_snr, passband_ripple, stream_snr
from pipeline.cancellation import CancelToken
from pipeline.errors import CancelledError, ErrorCode
from processor.audio.resampler import Resampler, resample_file, resampled_frames, stem_rate
from processor.audio.wav import Samples, write_wav

BOTH_WAYS = [*((rate, 44_100) for rate in RATES), *((44_100, rate) for rate in RATES)]


def noise(frames: int, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (frames, 2)).astype(np.float32)


def converted(samples: Samples, rates: tuple[int, int], sizes: list[int], frames: int | None = None) -> Samples:
    """Convert in blocks of these sizes, in turn."""
    resampler, at = Resampler(*rates, channels=2), 0
    parts: list[Samples] = []
    while at < len(samples):
        size = sizes[len(parts) % len(sizes)]
        parts.append(resampler.process(samples[at : at + size]))
        at += size
    return np.concatenate([*parts, resampler.flush(frames)])


@pytest.mark.parametrize(("rate", "target"), BOTH_WAYS)
def test_passband_is_flat_and_aliases_are_inaudible(rate: int, target: int) -> None:
    assert passband_ripple(rate, target) < 0.05
    assert alias_level(rate, target) < -120


@pytest.mark.parametrize(("rate", "target"), BOTH_WAYS)
def test_blocks_equal_the_conversion_of_the_whole(rate: int, target: int) -> None:
    assert stream_snr(rate, target) > 100


@settings(max_examples=60, deadline=None)
@given(
    rates=st.tuples(st.integers(1_000, 192_000), st.sampled_from([44_100, 48_000])),
    frames=st.integers(0, 5_000),
    sizes=st.lists(st.integers(1, 700), min_size=1, max_size=4),
)
def test_length_is_exact_there_and_back(rates: tuple[int, int], frames: int, sizes: list[int]) -> None:
    there = converted(noise(frames), rates, sizes)
    assert len(there) == resampled_frames(frames, *rates)
    assert abs(len(there) - frames * rates[1] / rates[0]) <= max(0.5, min(frames, 1) - frames * rates[1] / rates[0])
    assert len(converted(there, (rates[1], rates[0]), sizes, frames)) == frames


@pytest.mark.parametrize(
    ("frames", "length"), [(0, 0), (1, 1), (48_000, 44_100), (48_001, 44_101), (80, 74), (240, 221), (2_080, 1_911)]
)
def test_length_is_rounded_half_up(frames: int, length: int) -> None:
    """80 frames are 73.5, 240 are 220.5 and 2,080 are 1,911."""
    assert resampled_frames(frames, 48_000, 44_100) == length


def test_equal_rates_change_nothing() -> None:
    samples = noise(10_000)
    np.testing.assert_array_equal(converted(samples, (44_100, 44_100), [1_000]), samples)


@pytest.mark.parametrize("rate", RATES)
def test_stem_is_aligned_with_its_source(rate: int) -> None:
    """A click stays where it was, after both conversions, to the sample."""
    clicks = np.zeros((rate, 2), np.float32)
    clicks[[rate // 7, rate // 2, rate - 200]] = 0.5
    there = converted(clicks, (rate, 44_100), [4_096])
    back = converted(there, (44_100, rate), [4_096], len(clicks))
    for click in (rate // 7, rate // 2, rate - 200):
        near = np.abs(back[click - 100 : click + 100, 0])
        assert np.argmax(near) == 100
        np.testing.assert_allclose(near[1:100], near[:100:-1], atol=1e-4)  # linear phase: symmetric


def test_sum_of_converted_stems_is_the_converted_song() -> None:
    song, vocals = noise(20_000, 1), noise(20_000, 2)
    rates = (44_100, 48_000)
    total = sum(converted(stem, rates, [4_096]) for stem in (vocals, song - vocals))
    np.testing.assert_allclose(total, converted(song, rates, [4_096]), atol=1e-6)


def test_memory_does_not_grow_with_the_length() -> None:
    def peak(blocks: int) -> int:
        resampler, block = Resampler(48_000, 44_100, channels=2), noise(10_000)
        tracemalloc.start()
        for _ in range(blocks):
            resampler.process(block)
        resampler.flush()
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    assert peak(100) < 1.2 * peak(5)


def test_length_that_is_already_exceeded_is_an_error() -> None:
    resampler = Resampler(44_100, 44_100, channels=2)
    resampler.process(noise(10))
    with pytest.raises(ValueError, match="10 frames were returned already, more than 9"):
        resampler.flush(9)


def test_song_through_the_decoder_equals_the_reference(tmp_path: Path) -> None:
    assert decoded_song_snr(tmp_path, seconds=5.0) > 100


def test_file_is_converted(tmp_path: Path) -> None:
    samples = noise(100_000)
    write_wav(tmp_path / "stem.wav", [samples], channels=2)
    written = resample_file(tmp_path / "stem.wav", tmp_path / "out.wav", (44_100, 48_000), 108_843, CancelToken())
    found, rate = soundfile.read(tmp_path / "out.wav", dtype="float32")
    assert (rate, len(found), written.frames, written.peak) == (48_000, 108_843, 108_843, np.abs(found).max())
    reference = soxr.resample(samples, 44_100, 48_000, "VHQ")
    np.testing.assert_allclose(found[: len(reference)], reference[:108_843], atol=1e-6)


def test_conversion_of_a_file_can_be_cancelled(tmp_path: Path) -> None:
    write_wav(tmp_path / "stem.wav", [noise(1_000)], channels=2)
    cancel = CancelToken()
    cancel.cancel(ErrorCode.SHUTTING_DOWN)
    with pytest.raises(CancelledError):
        resample_file(tmp_path / "stem.wav", tmp_path / "out.wav", (44_100, 48_000), 1_088, cancel)


@pytest.mark.parametrize(
    ("source", "stems"),
    [(8_000, 8_000), (48_000, 48_000), (65_535, 65_535), (65_537, 65_530), (96_000, 96_000), (1_000_000, 192_000)],
)
def test_rate_of_the_stems_is_one_that_flac_can_store(source: int, stems: int, tmp_path: Path) -> None:
    assert stem_rate(source) == stems
    soundfile.write(tmp_path / "stem", np.zeros((10, 2)), stems, format="FLAC")
    assert soundfile.info(tmp_path / "stem").samplerate == stems
