"""A song in overlapping segments, and back: audio-separator's cut of the MDX architecture, a segment at a time.

The song has ``trim`` zeros in front and at least ``trim + 1`` behind, so that no sample of it is near the end of all
segments that it lies in. Segments begin ``step`` frames apart; what the network makes of them is weighted with a Hann
window over their length, added up, and divided by the sum of the windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import soundfile
from numpy.typing import NDArray

from processor.wav import Samples

CHANNELS = 2


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the segments of a song are. All lengths in frames; positions count from the first zero of the padding."""

    frames: int
    """Of the song."""
    segment: int
    """What the network takes at a time."""
    overlap: float
    """Share of a segment, 0 to 1, that the next one repeats; no window at 0."""
    trim: int

    @property
    def step(self) -> int:
        """From the beginning of a segment to that of the next."""
        return int((1 - self.overlap) * self.segment)

    @property
    def length(self) -> int:
        """With the padding."""
        kept = self.segment - 2 * self.trim
        return self.trim + self.frames + kept + self.trim - self.frames % kept

    @property
    def count(self) -> int:
        """Segments that have to do with the song. Stock also runs those that begin behind its last sample."""
        return -(-(self.trim + self.frames) // self.step)

    def window(self, number: int) -> NDArray[np.float64]:
        """The weights of segment ``number``; the padding's end cuts off the last ones, window and all."""
        size = min(self.segment, self.length - number * self.step)
        return np.hanning(size) if self.overlap else np.ones(size)


def segments(song: soundfile.SoundFile, grid: Grid) -> Iterator[Samples]:
    """The segments ``(channels, frames)`` of an open song, read as they are asked for.

    Each is good until the next one is asked for. Raises ValueError for samples that are no numbers.
    """
    held = np.zeros((grid.segment, CHANNELS), np.float32)
    kept = grid.trim
    for _ in range(grid.count):
        fresh = held[kept:]
        song.read(dtype="float32", out=fresh, fill_value=0.0)
        if not np.isfinite(fresh).all():
            raise ValueError("the mixture has samples that are no numbers")
        yield held.T
        kept = grid.segment - grid.step
        held[:kept] = held[grid.step :]


class OverlapAdd:
    """Takes the segments in order and gives the song, as far as no later segment has a say in it.

    The same additions in the same order and precision as stock's over the whole song, so the same bits.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._window = grid.window(0)
        self._sums = np.zeros((CHANNELS, grid.segment), np.float32)
        self._weights = np.zeros(grid.segment, np.float32)
        self._number = 0

    def add(self, segment: Samples) -> Samples:
        """Add the next segment ``(channels, frames)``, which is overwritten; the song's next ``(channels, frames)``."""
        grid, start = self._grid, self._number * self._grid.step
        window = self._window
        if start + grid.segment > grid.length:
            window = grid.window(self._number)
        size = len(window)
        weighted = segment[:, :size]
        weighted *= window
        self._sums[:, :size] += weighted
        self._weights[:size] += window
        self._number += 1
        first, last = max(0, grid.trim - start), min(grid.step, grid.trim + grid.frames - start)
        done: Samples = self._sums[:, first:last] / self._weights[first:last]
        self._shift()
        return done

    def _shift(self) -> None:
        step = self._grid.step
        rest = self._grid.segment - step
        for held in (self._sums, self._weights):
            held[..., :rest] = held[..., step:]
            held[..., rest:] = 0.0
