"""A song in overlapping segments, and back, a segment at a time.

Where the segments are and which window they have is the cut's business. What the network makes of them is weighted with
the window, added up, and divided by the sum of the windows.
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
"""Of numpy's, or a tensor on any device: both know what is done here."""


def segments(song: soundfile.SoundFile, cut: Segmentation) -> Iterator[Samples]:
    """The segments ``(channels, frames)`` of an open song, read as they are asked for.

    Each is good until the next one is asked for. Raises ValueError for samples that are no numbers.
    """
    held = np.zeros((cut.segment, CHANNELS), np.float32)
    kept = cut.lead
    for number in range(cut.count):
        fresh = held[kept:]
        song.read(dtype="float32", out=fresh, fill_value=0.0)
        require_finite(fresh)
        yield held.T
        step = cut.start(number + 1) - cut.start(number)
        kept = cut.segment - step
        held[:kept] = held[step:]


class OverlapAdd:
    """Takes the segments in order and gives the song, as far as no later segment has a say in it.

    The same additions in the same order and precision as stock's over the whole song, so the same bits.
    """

    def __init__(
        self, cut: Segmentation, stems: tuple[int, ...] = (), place: Callable[[NDArray[Any]], Array] = np.asarray
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
