"""Reading of a song in overlapping segments, and overlap-add of what a network returns for them.

The segmentation defines the positions and the window of the segments. Each output segment is multiplied by the window
and added to the sum, which is divided by the sum of the windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from processor.audio.wav import Samples
from processor.separation.dsp.mixture import CHANNELS, require_finite
from processor.separation.dsp.segmentation import Segmentation

Array = Any
"""A NumPy array, or a tensor on any device: both support the operations used here."""


def read_segments(song: soundfile.SoundFile, segmentation: Segmentation) -> Iterator[Samples]:
    """Yield the segments ``(channels, frames)`` of an open song, reading each one on demand.

    Each segment is valid until the next one is requested. Raises ValueError for samples that are not finite.
    """
    buffer = np.zeros((segmentation.segment, CHANNELS), np.float32)
    kept = segmentation.padding
    for number in range(segmentation.count):
        fresh = buffer[kept:]
        song.read(dtype="float32", out=fresh, fill_value=0.0)
        require_finite(fresh)
        yield buffer.T
        step = segmentation.start(number + 1) - segmentation.start(number)
        kept = segmentation.segment - step
        buffer[:kept] = buffer[step:]


class OverlapAdd:
    """Takes the output segments in order and returns the samples that no later segment overlaps.

    Performs the same additions in the same order and precision as audio-separator does over the whole song, so the
    result is the same bit for bit.
    """

    def __init__(
        self,
        segmentation: Segmentation,
        stems: tuple[int, ...] = (),
        to_device: Callable[[NDArray[Any]], Array] = np.asarray,
    ) -> None:
        """``stems``: the number of stems, if they are an axis of the segments. ``to_device``: moves an array to where
        the segments are."""
        self._segmentation, self._to_device = segmentation, to_device
        self._window = to_device(segmentation.window(segmentation.size(0)))
        shape = (*stems, CHANNELS, segmentation.segment)
        self._sums, self._spare_sums = (to_device(np.zeros(shape, np.float32)) for _ in range(2))
        self._weights, self._spare_weights = (to_device(np.zeros(segmentation.segment, np.float32)) for _ in range(2))
        self._number = 0

    def add(self, segment: Array) -> Array:
        """Add the next segment ``(..., channels, frames)``, which is overwritten.

        Returns the song's next ``(..., channels, frames)``: none if later segments overlap all of this one.
        """
        segmentation, number = self._segmentation, self._number
        start, size = segmentation.start(number), segmentation.size(number)
        if size != len(self._window):
            self._window = self._to_device(segmentation.window(size))
        weighted = segment[..., :size]
        weighted *= self._window
        self._sums[..., :size] += weighted
        self._weights[:size] += self._window
        self._number += 1
        end = segmentation.padding + segmentation.frames
        next_start = min(segmentation.start(number + 1), end) if number + 1 < segmentation.count else end
        first, last = max(0, segmentation.padding - start), max(0, next_start - start)
        final = self._sums[..., first:last] / self._weights[first:last]
        step = next_start - start
        self._sums, self._spare_sums = _shifted(self._sums, self._spare_sums, step)
        self._weights, self._spare_weights = _shifted(self._weights, self._spare_weights, step)
        return final


def _shifted(array: Array, spare: Array, step: int) -> tuple[Array, Array]:
    """Return ``array`` without its first ``step`` frames, in the ``spare`` buffer, and the new spare buffer.

    Two buffers are needed because a tensor cannot be copied to a place that overlaps it.
    """
    rest = array.shape[-1] - step
    spare[..., :rest] = array[..., step:]
    spare[..., rest:] = 0.0
    return spare, array
