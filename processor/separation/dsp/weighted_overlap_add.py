"""A normalised song in windows, and what a Demucs network makes of them added up: on its device, a block at a time."""

from __future__ import annotations

import soundfile
import torch
from torch import Tensor

from processor.audio.wav import BLOCK_FRAMES
from processor.separation.dsp.mixture import CHANNELS, require_finite
from processor.separation.dsp.running_stats import RunningStats
from processor.separation.dsp.shifts import Segment, ShiftedPass


class NormalisedMixture:
    """An open mixture, less the mean of its channels' average and divided by the standard deviation of that.

    audio-separator has all samples at once, and sums them in float32 for the mean. Here a first walk over the file sums
    in float64, and the result is rounded to float32, in which everything after that is done as stock does it. So the
    means differ by what float32 sums lose, and the last bits of stems with them. That matters only to a song whose
    spread is no larger than that: one that is constant, whose stems are that constant whatever the network says.
    """

    def __init__(self, file: soundfile.SoundFile) -> None:
        """``file``: see ``opened``. Raises ValueError for samples that are no numbers."""
        moments = _moments(file)
        self._file = file
        self.frames: int = file.frames
        self._mean, self._std = torch.tensor(moments.mean), torch.tensor(moments.std)
        # What is constant is divided by the smallest number that makes a difference to 1, and multiplied by 0 later.
        self._divisor = self._std.clamp_min(torch.finfo(torch.float32).eps)

    def window(self, start: int, size: int) -> Tensor:
        """``(channels, size)``, from the position ``start`` on; zero outside the song."""
        window = torch.zeros(CHANNELS, size)
        first, last = max(0, start), min(start + size, self.frames)
        if first < last:
            self._file.seek(first)
            samples = torch.from_numpy(self._file.read(last - first, dtype="float32")).T
            window[:, first - start : last - start] = samples.sub_(self._mean).div_(self._divisor)
        return window

    def restored(self, stems: Tensor) -> Tensor:
        """At the level of the mixture again, in place."""
        return stems.mul_(self._std).add_(self._mean)


class WeightedOverlapAdd:
    """Takes the segments of a walk in order and gives the song, as far as no later segment has a say in it.

    Their weights rise evenly towards the middle of a segment and fall again; sums are divided by the sums of weights.
    The same additions in the same order and precision as stock's over the whole song, so the same bits. Memory for
    ``stems`` of two channels over a segment and a block.
    """

    def __init__(self, walk: ShiftedPass, stems: int, block: int, device: torch.device) -> None:
        """``block``: frames that are taken at a time, at most."""
        room = min(walk.frames, walk.segment + block)
        self.walk = walk
        self._window = _triangle(walk.segment).to(device)
        self._sums = torch.zeros(stems, CHANNELS, room, device=device)
        self._weights = torch.zeros(room, device=device)
        self._taken = self._added = 0

    def due(self, end: int) -> list[Segment]:
        """The segments that must be added before the song is taken up to ``end``, in order."""
        return [self.walk[number] for number in range(self._added, self.walk.needed(end))]

    def add(self, segment: Segment, output: Tensor) -> None:
        """Add what the network made ``(stems, channels, frames)`` of the next segment; not what is before the song."""
        skipped = min(segment.size, max(0, -segment.start))
        weights = self._window[skipped : segment.size]
        first = segment.start + skipped - self._taken
        place = slice(first, first + len(weights))
        self._sums[..., place] += weights * output[..., skipped:]
        self._weights[place] += weights
        self._added += 1

    def take(self, end: int) -> Tensor:
        """The song ``(stems, channels, frames)`` up to ``end``; nothing may be ``due``."""
        size = end - self._taken
        done = self._sums[..., :size] / self._weights[:size]
        self._sums = torch.nn.functional.pad(self._sums[..., size:], (0, size))
        self._weights = torch.nn.functional.pad(self._weights[size:], (0, size))
        self._taken = end
        return done


def _moments(file: soundfile.SoundFile) -> RunningStats:
    moments = RunningStats()
    for block in file.blocks(blocksize=BLOCK_FRAMES, dtype="float32"):
        require_finite(block)
        moments.add((block[:, 0] + block[:, 1]) / 2)
    return moments


def _triangle(size: int) -> Tensor:
    """1, 2, 3 and so on up to the middle and down to 1, as shares of the largest."""
    numbers = torch.arange(1, size + 1)
    heights = torch.minimum(numbers, numbers.flip(0))
    return heights / heights.max()
