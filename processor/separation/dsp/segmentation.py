"""The division of a song into overlapping segments, as audio-separator defines it for each architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Window = Callable[[int], NDArray[np.floating]]


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Positions of a song's segments. All lengths are in frames; positions count from the start of the padding."""

    frames: int
    """Length of the song."""
    segment: int
    """Length of the network's input."""
    padding: int
    """Zeros before the song, fewer than a segment."""
    step: int
    """Distance between the starts of consecutive segments."""
    count: int
    """Number of segments that contain a part of the song."""
    length: int
    """Length of the song with the padding on both sides. No segment counts beyond it."""
    window: Window
    """Returns the weights of a segment, given the size that counts."""
    last_start: int
    """Latest position at which a segment may start."""

    def start(self, number: int) -> int:
        """Return where segment ``number`` starts: after the start of the previous one, not after its end."""
        return min(number * self.step, self.last_start)

    def size(self, number: int) -> int:
        """Return how many frames of segment ``number`` count, from its start."""
        return min(self.segment, self.length - self.start(number))


def trimmed_segmentation(frames: int, segment: int, overlap: float, trim: int) -> Segmentation:
    """Return the segmentation of MDX networks, with a Hann window.

    The song has ``trim`` zeros before it and at least ``trim + 1`` after it, so that each sample is away from the ends
    of at least one of its segments. The end of the padding shortens the last segments and their windows. ``overlap`` is
    the share of a segment, 0 to 1, that the next one repeats; at 0 there is no window. audio-separator also runs
    segments that start after the song's last sample, which do not change the result.
    """
    step = int((1 - overlap) * segment)
    kept = segment - 2 * trim
    count = -(-(trim + frames) // step)
    length = trim + frames + kept + trim - frames % kept
    return Segmentation(frames, segment, trim, step, count, length, np.hanning if overlap else np.ones, count * step)


def padded_segmentation(frames: int, segment: int, step: int) -> Segmentation:
    """Return the segmentation of TFC-TDF networks (MDX23C): each sample is in equally many segments of equal weight.

    This holds if ``step`` divides ``segment``, as audio-separator's divisor assumes. Otherwise a few samples are in one
    more segment, and are louder in audio-separator's stems by that factor. audio-separator also runs a segment that
    starts after the song's last sample if there is room for it, which does not change the result.
    """
    padding = segment - step
    count = -(-(padding + frames) // step)
    length = padding + frames + segment
    return Segmentation(
        frames, segment, padding, step, count, length, lambda size: np.ones(size, np.float32), count * step
    )


def anchored_segmentation(frames: int, chunk: int, step: int) -> Segmentation:
    """Return the segmentation of Roformers: no padding, the last segment ends with the song, a Hamming window.

    ``chunk``: length of a segment. A song that is shorter is one segment.
    """
    segment = min(chunk, frames)
    hamming = np.hamming(chunk).astype(np.float32)
    count = 1 - (segment - frames) // step
    return Segmentation(frames, segment, 0, step, count, frames, lambda size: hamming[:size], frames - segment)
