"""Where the segments of a song are that a Demucs model is given, and by how much the song is shifted for each walk.

As in audio-separator's ``apply_model``: the network walks over the song several times, each time with another number
of zeros in front, and what it gives is averaged. Within a walk segments begin a stride apart, the first with the zeros.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """Lengths and positions are in frames; positions count from the song's first sample and may be before it."""

    start: int
    size: int


@dataclass(frozen=True, slots=True)
class ShiftedPass:
    """One time over the song."""

    frames: int
    """Of the song."""
    lead: int
    """Zeros that are taken for the song's beginning."""
    segment: int
    """How long all segments are but the last ones, which end with the song."""
    stride: int
    """From the beginning of a segment to that of the next."""

    @property
    def count(self) -> int:
        """How many segments there are."""
        return self.needed(self.frames)

    def needed(self, end: int) -> int:
        """How many of the first segments have a say in what is before ``end``, which is not behind the song."""
        return -(-(self.lead + end) // self.stride)

    def __getitem__(self, number: int) -> Segment:
        start = number * self.stride - self.lead
        return Segment(start, min(self.segment, self.frames - start))


@dataclass(frozen=True, slots=True)
class ShiftedSegmentation:
    """How a network wants songs cut, whatever their length. In frames, but for ``shifts``."""

    segment: int
    stride: int
    shifts: int
    """How many walks, each shifted at random; 0: one that is not."""
    longest: int
    """What a song is shifted by at most."""
    rolls: bool
    """Whether the network itself asks for a random number, to which it is indifferent, at every segment."""

    def walks(self, frames: int, dice: random.Random) -> Iterator[ShiftedPass]:
        """Over a song, as stock would draw them, whose walks take their segments one after the other."""
        for _ in range(self.shifts or 1):
            lead = self.longest - dice.randint(0, self.longest) if self.shifts else 0
            walk = ShiftedPass(frames, lead, self.segment, self.stride)
            for _ in range(walk.count if self.rolls else 0):
                dice.randrange(1)
            yield walk
