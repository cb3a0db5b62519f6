"""The networks of a Demucs model that audio-separator has loaded: a weighted bag of several, or a single one."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import groupby
from numbers import Real
from typing import Any, Self

import torch
from audio_separator.separator.uvr_lib_v5.demucs.apply import BagOfModels
from torch import Tensor

from processor.audio.wav import BLOCK_FRAMES, SAMPLE_RATE
from processor.separation.dsp.shifts import Segment, ShiftedSegmentation
from processor.separation.dsp.weighted_overlap_add import NormalisedMixture, WeightedOverlapAdd

#: Length of the song in one batch on a GPU, frames. A CPU takes one segment: its caches hold no more.
GPU_FRAMES = 32 * SAMPLE_RATE

#: The longest shift, s.
_MAX_SHIFT = 0.5


class BagMember:
    """A network on its device, and its weights in the bag."""

    def __init__(self, module: Any, weights: Sequence[float], model: Any) -> None:
        """``weights``: of each stem. ``model``: the ``DemucsSeparator``, for its parameters."""
        self._module = module
        self.weights = {stem: weight for stem, weight in enumerate(weights) if weight}
        """The weights that are not zero, by the number of the stem."""
        self.device: torch.device = model.torch_device
        self._seconds = module.segment
        segment = int(module.samplerate * module.segment)
        self._overlap = model.overlap
        self.segmentation = ShiftedSegmentation(
            segment,
            stride=int((1 - self._overlap) * segment),
            shifts=model.shifts,
            max_shift=int(_MAX_SHIFT * module.samplerate),
            draws_random=getattr(getattr(module, "crosstransformer", None), "emb", None) == "sin",
        )
        #: Number of segments in a batch.
        self.batch = max(1, GPU_FRAMES // segment) if self.device.type == "cuda" else 1

    @property
    def block(self) -> int:
        """The number of frames of the song that give full batches."""
        passes = self.segmentation.shifts or 1
        return max(BLOCK_FRAMES, self.batch // passes * self.segmentation.stride)

    def only(self, wanted: Collection[int]) -> Self:
        """Return the same network with weights for the ``wanted`` stems only, which may leave none."""
        member = copy.copy(self)
        member.weights = {stem: weight for stem, weight in self.weights.items() if stem in wanted}
        return member

    def reduced(self, divisor: int) -> Self:
        """Return the same network with batches of one segment, of the length divided by ``divisor``."""
        member = copy.copy(self)
        member.batch = 1
        member._seconds = self._seconds / divisor
        segment = int(self._module.samplerate * member._seconds)
        stride = int((1 - self._overlap) * segment)
        member.segmentation = replace(self.segmentation, segment=segment, stride=stride)
        return member

    def __call__(self, song: NormalisedMixture, segments: Sequence[Segment]) -> Tensor:
        """Return ``(segments, stems, channels, frames)`` for segments of equal size; only stems with a weight."""
        size = segments[0].size
        # Some networks pad every segment to the length that they assume to be the usual one.
        self._module.segment = self._seconds
        input_size: int = self._module.valid_length(size) if hasattr(self._module, "valid_length") else size
        before = (input_size - size) // 2
        waves = torch.stack([song.window(segment.start - before, input_size) for segment in segments])
        separated: Tensor = self._module(waves.to(self.device))
        return separated[:, list(self.weights), :, before : before + size]


class MemberSeparation:
    """The progress of one member through one song."""

    def __init__(self, member: BagMember, song: NormalisedMixture, block: int, rng: random.Random) -> None:
        """``block``: maximum number of frames in a call of ``advance``. Draws the member's random shifts."""
        self.weights = member.weights
        self._member, self._song = member, song
        passes = member.segmentation.passes(song.frames, rng)
        self._sums = [WeightedOverlapAdd(shifted, len(member.weights), block, member.device) for shifted in passes]
        #: Number of segments of all passes.
        self.segments = sum(overlap_add.shifted.count for overlap_add in self._sums)

    def advance(self, end: int, on_batch: Callable[[int], None]) -> Tensor:
        """Return the song's next ``(stems, channels, frames)`` up to ``end``: the average of the passes.

        Calls ``on_batch`` with the number of segments of each batch before it is run.
        """
        pending = [(overlap_add, segment) for overlap_add in self._sums for segment in overlap_add.pending(end)]
        # A batch contains segments of equal size. The sort keeps the order within a pass, where sizes never rise.
        pending.sort(key=lambda item: -item[1].size)
        for _, group in groupby(pending, key=lambda item: item[1].size):
            equal = list(group)
            for first in range(0, len(equal), self._member.batch):
                batch = equal[first : first + self._member.batch]
                on_batch(len(batch))
                outputs = self._member(self._song, [segment for _, segment in batch])
                for (overlap_add, segment), output in zip(batch, outputs, strict=True):
                    overlap_add.add(segment, output)
        average, *others = (overlap_add.take(end) for overlap_add in self._sums)
        for other in others:
            average += other
        return average.div_(len(self._sums))


def bag_members(network: Any, model: Any) -> list[BagMember] | None:
    """Return the members of what audio-separator's loader returns; None if they cannot be streamed.

    Streaming needs segmentation, networks with a known segment length (audio-separator cannot run others either), and
    networks whose output does not depend on the random numbers that they draw.
    """
    if isinstance(network, BagOfModels):
        weighted = list(zip(network.models, network.weights, strict=True))
    else:
        weighted = [(network, [1.0] * len(network.sources))]
    for module, _ in weighted:
        if not isinstance(module.segment, Real):
            return None
        if getattr(getattr(module, "crosstransformer", None), "sin_random_shift", 0):
            return None
    return [BagMember(module, weights, model) for module, weights in weighted] if model.segments_enabled else None
