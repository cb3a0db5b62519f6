"""Where the segments of a song are, and which window they have: one cut for each architecture, audio-separator's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Segmentation(Protocol):
    """Where the segments of a song are. All lengths in frames; positions count from the first zero of the padding."""

    @property
    def frames(self) -> int:
        """Of the song."""

    @property
    def segment(self) -> int:
        """What the network takes at a time."""

    @property
    def lead(self) -> int:
        """Zeros in front of the song, less than a segment."""

    @property
    def count(self) -> int:
        """How many segments have to do with the song."""

    def start(self, number: int) -> int:
        """Where segment ``number`` begins: no later than the one before it ends, and behind where that begins."""

    def size(self, number: int) -> int:
        """How much of segment ``number`` counts, from its beginning."""

    def window(self, size: int) -> NDArray[np.floating]:
        """The weights of a segment of which so much counts."""


@dataclass(frozen=True, slots=True)
class TrimmedSegmentation:
    """The cut of MDX networks.

    The song has ``trim`` zeros in front and at least ``trim + 1`` behind, so that no sample of it is near the end of
    all segments that it lies in. Segments begin ``step`` frames apart; the window is Hann's.
    """

    frames: int
    segment: int
    overlap: float
    """Share of a segment, 0 to 1, that the next one repeats; no window at 0."""
    trim: int

    @property
    def lead(self) -> int:
        return self.trim

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
        """Stock also runs those that begin behind the song's last sample."""
        return -(-(self.trim + self.frames) // self.step)

    def start(self, number: int) -> int:
        return number * self.step

    def size(self, number: int) -> int:
        """The padding's end cuts off the last ones, window and all."""
        return min(self.segment, self.length - self.start(number))

    def window(self, size: int) -> NDArray[np.float64]:
        return np.hanning(size) if self.overlap else np.ones(size)


@dataclass(frozen=True, slots=True)
class PaddedSegmentation:
    """The cut of TFC-TDF networks (MDX23C): every sample lies in as many segments, and all weigh the same.

    That is, if ``step`` divides ``segment``: what stock divides by. If it does not, a few samples lie in one more, and
    are that much louder in stock's stems.
    """

    frames: int
    segment: int
    step: int

    @property
    def lead(self) -> int:
        return self.segment - self.step

    @property
    def count(self) -> int:
        """Stock also runs one that begins behind the song's last sample, if there is room for it."""
        return -(-(self.lead + self.frames) // self.step)

    def start(self, number: int) -> int:
        return number * self.step

    def size(self, number: int) -> int:
        return self.segment

    def window(self, size: int) -> NDArray[np.float32]:
        return np.ones(size, np.float32)


@dataclass(frozen=True, slots=True)
class AnchoredSegmentation:
    """The cut of Roformers: no padding, the last segment ends with the song; the window is Hamming's."""

    frames: int
    chunk: int
    """A segment; or if the song is shorter, that is the only one."""
    step: int

    @property
    def segment(self) -> int:
        return min(self.chunk, self.frames)

    @property
    def lead(self) -> int:
        return 0

    @property
    def count(self) -> int:
        return 1 - (self.segment - self.frames) // self.step

    def start(self, number: int) -> int:
        return min(number * self.step, self.frames - self.segment)

    def size(self, number: int) -> int:
        return self.segment

    def window(self, size: int) -> NDArray[np.float32]:
        return np.hamming(self.chunk)[:size].astype(np.float32)
