"""Separation in chunks: the exact length, smooth crossfades, stems that still add up."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from processor.audio.wav import SAMPLE_RATE, Samples, write_wav
from processor.separation.chunked import OVERLAP, ChunkedSeparator, CrossFade, chunk_bounds
from processor.separation.separator import OnProgress, ReducedSeparator, Write
from processor.separation.stems import StemMissingError

SIZE = 5 * SAMPLE_RATE

lengths = st.integers(1, 2000)


class GainSeparator:
    """A separator that multiplies each chunk by the next gain; its second stem is the rest of the mixture."""

    device = "cpu"
    stems = frozenset({"scaled", "rest"})

    def __init__(self, *gains: float, block: int = 10_000, missing: int = 0) -> None:
        self._gains = iter(gains)
        self._block, self._missing = block, missing
        self.songs: list[Samples] = []

    def only(self, wanted: Collection[str]) -> GainSeparator:
        raise NotImplementedError

    def reduce_memory(self) -> ReducedSeparator | None:
        return None

    def separate(self, mixture: Path, write: Write, on_progress: OnProgress) -> None:
        song = soundfile.read(mixture, dtype="float32")[0]
        self.songs.append(song)
        gain = np.float32(next(self._gains))
        for start in range(0, len(song) - self._missing, self._block):
            on_progress(start / len(song))
            block = song[: len(song) - self._missing][start : start + self._block]
            write("scaled", block * gain)
            write("rest", block * (1 - gain))
        on_progress(1.0)


def song(folder: Path, frames: int) -> tuple[Path, Samples]:
    samples = np.random.default_rng(0).uniform(-1.0, 1.0, (frames, 2)).astype(np.float32)
    write_wav(folder / "song.wav", [samples], channels=2)
    return folder / "song.wav", samples


def separated(separator: ChunkedSeparator, mixture: Path) -> tuple[dict[str, NDArray[np.float32]], list[float]]:
    blocks: dict[str, list[Samples]] = {}
    progress: list[float] = []
    separator.separate(mixture, lambda name, block: blocks.setdefault(name, []).append(block), progress.append)
    return {name: np.concatenate(parts) for name, parts in blocks.items()}, progress


@given(frames=lengths, overlap=st.integers(1, 100), beyond=st.integers(0, 300))
def test_chunks_cover_a_song_and_overlap(frames: int, overlap: int, beyond: int) -> None:
    size = 2 * overlap + beyond
    chunks = chunk_bounds(frames, size, overlap)
    assert (chunks[0].start, chunks[0].fade, chunks[-1].end) == (0, 0, frames)
    assert {chunk.end - chunk.start for chunk in chunks} == {min(size, frames)}
    for before, after in pairwise(chunks):
        assert after.start <= after.fade == before.end - overlap


@given(frames=lengths, block=st.integers(1, 97))
def test_crossfade_keeps_identical_signals(frames: int, block: int) -> None:
    """Crossfading a signal with itself returns it, up to rounding, for every block size."""
    samples = np.random.default_rng(frames).standard_normal((frames, 2), np.float32)
    chunks = chunk_bounds(frames, 150, 40)
    fade = CrossFade(chunks, 2, 40)
    given = []
    for chunk in chunks:
        for start in range(chunk.start, chunk.end, block):
            given.append(fade.add(samples[start : min(start + block, chunk.end)]))
        fade.end_chunk("scaled")
    np.testing.assert_allclose(np.concatenate(given), samples, rtol=0, atol=1e-6)


def test_one_chunk_fades_into_the_next_and_stems_add_up(tmp_path: Path) -> None:
    mixture, samples = song(tmp_path, 2 * SIZE - OVERLAP)
    stems, progress = separated(ChunkedSeparator(GainSeparator(0.25, 0.75), SIZE), mixture)

    np.testing.assert_allclose(stems["scaled"] + stems["rest"], samples, rtol=0, atol=1e-6)
    gain = stems["scaled"][:, 0] / samples[:, 0]
    np.testing.assert_allclose(gain[: SIZE - OVERLAP], 0.25, rtol=1e-4)
    np.testing.assert_allclose(gain[SIZE:], 0.75, rtol=1e-4)
    fade = gain[SIZE - OVERLAP : SIZE]
    np.testing.assert_allclose(fade, np.linspace(0.25, 0.75, OVERLAP), atol=1e-3)
    assert progress == sorted(progress)
    assert (progress[0], progress[-1]) == (0.0, 1.0)


def test_chunks_have_equal_length_and_the_last_ends_with_the_song(tmp_path: Path) -> None:
    """A shorter last chunk would give the network too little context."""
    mixture, samples = song(tmp_path, 2 * SIZE - OVERLAP + 1)
    separator = GainSeparator(1.0, 0.5, 0.0)
    stems, _ = separated(ChunkedSeparator(separator, SIZE), mixture)
    assert [len(chunk) for chunk in separator.songs] == [SIZE] * 3
    np.testing.assert_array_equal(separator.songs[-1], samples[-SIZE:])
    assert len(stems["scaled"]) == len(samples)


def test_song_of_one_chunk_is_not_crossfaded(tmp_path: Path) -> None:
    mixture, samples = song(tmp_path, SIZE)
    stems, _ = separated(ChunkedSeparator(GainSeparator(1.0), SIZE), mixture)
    np.testing.assert_array_equal(stems["scaled"], samples)


@pytest.mark.parametrize("missing", [1, OVERLAP + 7])
def test_stem_shorter_than_its_chunk_is_an_error(tmp_path: Path, missing: int) -> None:
    mixture, _ = song(tmp_path, 2 * SIZE)
    with pytest.raises(StemMissingError, match=f"has {SIZE - missing} samples of a chunk of {SIZE}"):
        separated(ChunkedSeparator(GainSeparator(1.0, 1.0, 1.0, missing=missing), SIZE), mixture)
    assert [path.name for path in tmp_path.iterdir()] == ["song.wav"]
