"""Normalisation of the mixture and weighted overlap-add for Demucs networks: on the device, one block at a time."""

from __future__ import annotations

import soundfile
import torch
from torch import Tensor

from processor.audio.wav import BLOCK_FRAMES
from processor.separation.dsp.mixture import CHANNELS, require_finite
from processor.separation.dsp.running_stats import RunningStats
from processor.separation.dsp.shifts import Segment, ShiftedPass


class NormalisedMixture:
    """An open mixture, minus the mean of its mono downmix, divided by the standard deviation of the downmix.

    audio-separator has all samples in memory and sums them in float32 for the mean. Here, a first pass over the file
    sums in float64, and the result is rounded to float32; all later steps are in float32, as in audio-separator. So the
    means differ by the rounding error of the float32 sums, and the last bits of stems differ with them. This matters
    only for a song whose standard deviation is not larger than that error: a constant one, whose stems are that
    constant whatever the network returns.
    """

    def __init__(self, file: soundfile.SoundFile) -> None:
        """``file``: see ``open_mixture``. Raises ValueError for samples that are not finite."""
        stats = RunningStats()
        for block in file.blocks(blocksize=BLOCK_FRAMES, dtype="float32"):
            require_finite(block)
            stats.add((block[:, 0] + block[:, 1]) / 2)
        self._file = file
        self.frames: int = file.frames
        self._mean, self._std = torch.tensor(stats.mean), torch.tensor(stats.std)
        # A constant is divided by the machine epsilon, and its stems are multiplied by 0 in ``denormalise``.
        self._divisor = self._std.clamp_min(torch.finfo(torch.float32).eps)

    def window(self, start: int, size: int) -> Tensor:
        """Return ``(channels, size)`` from frame ``start`` on, which may be negative; zeros outside the song."""
        window = torch.zeros(CHANNELS, size)
        first, last = max(0, start), min(start + size, self.frames)
        if first < last:
            self._file.seek(first)
            samples = torch.from_numpy(self._file.read(last - first, dtype="float32")).T
            window[:, first - start : last - start] = samples.sub_(self._mean).div_(self._divisor)
        return window

    def denormalise(self, stems: Tensor) -> Tensor:
        """Bring stems back to the level of the mixture, in place."""
        return stems.mul_(self._std).add_(self._mean)


class WeightedOverlapAdd:
    """Takes the output segments of one pass in order and returns the samples that no later segment overlaps.

    The weights of a segment form a triangle; sums are divided by the sums of weights. Performs the same additions in
    the same order and precision as audio-separator does over the whole song, so the result is the same bit for bit.
    Holds ``stems`` of two channels over one segment and one block.
    """

    def __init__(self, shifted: ShiftedPass, stems: int, block: int, device: torch.device) -> None:
        """``block``: maximum number of frames that are taken at a time."""
        capacity = min(shifted.frames, shifted.segment + block)
        self.shifted = shifted
        # 1, 2, 3 and so on up to the middle and down to 1, divided by the largest.
        numbers = torch.arange(1, shifted.segment + 1)
        heights = torch.minimum(numbers, numbers.flip(0))
        self._window = (heights / heights.max()).to(device)
        self._sums = torch.zeros(stems, CHANNELS, capacity, device=device)
        self._weights = torch.zeros(capacity, device=device)
        self._taken = self._added = 0

    def pending(self, end: int) -> list[Segment]:
        """Return the segments that must be added before the song is taken up to ``end``, in order."""
        return [self.shifted[number] for number in range(self._added, self.shifted.needed(end))]

    def add(self, segment: Segment, output: Tensor) -> None:
        """Add the network's output ``(stems, channels, frames)`` for the next segment, without what precedes the
        song."""
        skipped = min(segment.size, max(0, -segment.start))
        weights = self._window[skipped : segment.size]
        first = segment.start + skipped - self._taken
        place = slice(first, first + len(weights))
        self._sums[..., place] += weights * output[..., skipped:]
        self._weights[place] += weights
        self._added += 1

    def take(self, end: int) -> Tensor:
        """Return the song's next ``(stems, channels, frames)`` up to ``end``. No segment may be pending."""
        size = end - self._taken
        final = self._sums[..., :size] / self._weights[:size]
        self._sums = torch.nn.functional.pad(self._sums[..., size:], (0, size))
        self._weights = torch.nn.functional.pad(self._weights[size:], (0, size))
        self._taken = end
        return final
