"""A song in overlapping segments, and back, a segment at a time.

An architecture's cut says where the segments are and which window they have; what the network makes of them is
weighted, added up, and divided by the sum of the windows. The three cuts are audio-separator's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from processor.wav import Samples

CHANNELS = 2

Array = Any
"""Of numpy's, or a tensor on any device: both know what is done here."""


class Cut(Protocol):
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
class Grid:
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
class PaddedCut:
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
class AnchoredCut:
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


def segments(song: soundfile.SoundFile, cut: Cut) -> Iterator[Samples]:
    """The segments ``(channels, frames)`` of an open song, read as they are asked for.

    Each is good until the next one is asked for. Raises ValueError for samples that are no numbers.
    """
    held = np.zeros((cut.segment, CHANNELS), np.float32)
    kept = cut.lead
    for number in range(cut.count):
        fresh = held[kept:]
        song.read(dtype="float32", out=fresh, fill_value=0.0)
        if not np.isfinite(fresh).all():
            raise ValueError("the mixture has samples that are no numbers")
        yield held.T
        step = cut.start(number + 1) - cut.start(number)
        kept = cut.segment - step
        held[:kept] = held[step:]


class OverlapAdd:
    """Takes the segments in order and gives the song, as far as no later segment has a say in it.

    The same additions in the same order and precision as stock's over the whole song, so the same bits.
    """

    def __init__(
        self, cut: Cut, stems: tuple[int, ...] = (), place: Callable[[NDArray[Any]], Array] = np.asarray
    ) -> None:
        """``stems``: how many stems a segment has, if they are an axis of it. ``place``: puts an array where the
        segments are."""
        self._cut, self._place = cut, place
        self._window = place(cut.window(cut.size(0)))
        self._sums, self._spare_sums = (place(np.zeros((*stems, CHANNELS, cut.segment), np.float32)) for _ in range(2))
        self._weights, self._spare_weights = (place(np.zeros(cut.segment, np.float32)) for _ in range(2))
        self._number = 0

    def add(self, segment: Array) -> Array:
        """Add the next segment ``(..., channels, frames)``, which is overwritten; the song's next
        ``(..., channels, frames)``, none if the segment only has to do with what comes later."""
        cut, start, size = self._cut, self._cut.start(self._number), self._cut.size(self._number)
        if size != len(self._window):
            self._window = self._place(cut.window(size))
        weighted = segment[..., :size]
        weighted *= self._window
        self._sums[..., :size] += weighted
        self._weights[:size] += self._window
        self._number += 1
        end = cut.lead + cut.frames
        following = min(cut.start(self._number), end) if self._number < cut.count else end
        first, last = max(0, cut.lead - start), max(0, following - start)
        done = self._sums[..., first:last] / self._weights[first:last]
        self._shift(following - start)
        return done

    def _shift(self, step: int) -> None:
        self._sums, self._spare_sums = _shifted(self._sums, self._spare_sums, step)
        self._weights, self._spare_weights = _shifted(self._weights, self._spare_weights, step)


def _shifted(held: Array, spare: Array, step: int) -> tuple[Array, Array]:
    """What is held without its first ``step`` frames, and room for the next time. A tensor cannot be copied to where
    it partly lies."""
    rest = held.shape[-1] - step
    spare[..., :rest] = held[..., step:]
    spare[..., rest:] = 0.0
    return spare, held
