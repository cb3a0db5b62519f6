"""The segments of a Demucs model and the random shifts of its passes over the song.

As in audio-separator's ``apply_model``, the network passes over the song several times, each time with a different
number of zeros before it, and the results are averaged. Within a pass, segments start one stride apart, and the first
one starts with the zeros.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """Start and size in frames. The start counts from the song's first sample and may be negative."""

    start: int
    size: int


@dataclass(frozen=True, slots=True)
class ShiftedPass:
    """One pass over the song. All lengths are in frames."""

    frames: int
    """Length of the song."""
    padding: int
    """Zeros before the song."""
    segment: int
    """Length of all segments except the last ones, which end with the song."""
    stride: int
    """Distance between the starts of consecutive segments."""

    @property
    def count(self) -> int:
        """The number of segments."""
        return self.needed(self.frames)

    def needed(self, end: int) -> int:
        """Return how many of the first segments overlap the song before ``end``, which is not after the song's end."""
        return -(-(self.padding + end) // self.stride)

    def __getitem__(self, number: int) -> Segment:
        start = number * self.stride - self.padding
        return Segment(start, min(self.segment, self.frames - start))


@dataclass(frozen=True, slots=True)
class ShiftedSegmentation:
    """A network's segmentation of songs of any length. All lengths are in frames."""

    segment: int
    stride: int
    shifts: int
    """Number of passes, each with a random shift; 0: one pass without a shift."""
    max_shift: int
    draws_random: bool
    """Whether the network itself draws a random number for every segment. It does not use the number."""

    def passes(self, frames: int, rng: random.Random) -> Iterator[ShiftedPass]:
        """Yield the passes over a song of ``frames``, drawing from ``rng`` in audio-separator's order.

        audio-separator runs all segments of a pass before it draws the next shift. Where the network draws random
        numbers, this consumes one unused draw per segment, so that the sequence matches.
        """
        for _ in range(self.shifts or 1):
            padding = self.max_shift - rng.randint(0, self.max_shift) if self.shifts else 0
            shifted = ShiftedPass(frames, padding, self.segment, self.stride)
            for _ in range(shifted.count if self.draws_random else 0):
                rng.randrange(1)
            yield shifted
