"""The networks of a Demucs model, which audio-separator has loaded: a bag of several, with weights, or a single one."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from numbers import Real
from typing import Any

import torch
from audio_separator.separator.uvr_lib_v5.demucs.apply import BagOfModels
from torch import Tensor

from processor.audio.wav import BLOCK_FRAMES, SAMPLE_RATE
from processor.separation.dsp.shifts import Segment, ShiftedSegmentation
from processor.separation.dsp.weighted_overlap_add import NormalisedMixture, WeightedOverlapAdd

#: How much of a song a GPU is given at a time, frames. A CPU gets one segment: its caches hold no more.
GPU_FRAMES = 32 * SAMPLE_RATE

#: The longest shift, s.
_LONGEST_SHIFT = 0.5


class Member:
    """A network on its device, and what it counts for in its bag."""

    def __init__(self, module: Any, weights: Sequence[float], model: Any) -> None:
        """``weights``: of each stem. ``model``: the ``DemucsSeparator``, for its parameters."""
        self._module = module
        self.weights = {stem: weight for stem, weight in enumerate(weights) if weight}
        """Of the stems, by their numbers, that count at all."""
        self.device: torch.device = model.torch_device
        self._seconds = module.segment
        segment = int(module.samplerate * module.segment)
        self._overlap = model.overlap
        transformer = _transformer(module)
        self.cut = ShiftedSegmentation(
            segment,
            stride=int((1 - self._overlap) * segment),
            shifts=model.shifts,
            longest=int(_LONGEST_SHIFT * module.samplerate),
            rolls=getattr(transformer, "emb", None) == "sin",
        )
        #: How many segments it is given at a time.
        self.batch = max(1, GPU_FRAMES // segment) if self.device.type == "cuda" else 1

    @property
    def block(self) -> int:
        """How many frames it has to walk over at a time for full batches."""
        return max(BLOCK_FRAMES, self.batch // (self.cut.shifts or 1) * self.cut.stride)

    def only(self, wanted: Collection[int]) -> Member:
        """The same network, counting for these stems alone; it may be for none."""
        member = copy.copy(self)
        member.weights = {stem: weight for stem, weight in self.weights.items() if stem in wanted}
        return member

    def lighter(self, parts: int) -> Member:
        """The same network, given one segment at a time: a part, of so many, of one of these."""
        member = copy.copy(self)
        member.batch = 1
        member._seconds = self._seconds / parts
        segment = int(self._module.samplerate * member._seconds)
        member.cut = replace(self.cut, segment=segment, stride=int((1 - self._overlap) * segment))
        return member

    def __call__(self, song: NormalisedMixture, segments: Sequence[Segment]) -> Tensor:
        """What it makes ``(segments, stems, channels, frames)`` of segments of the same size; the stems that count."""
        size = segments[0].size
        # Some fill up every segment to the length that they take for the usual one.
        self._module.segment = self._seconds
        wanted: int = self._module.valid_length(size) if hasattr(self._module, "valid_length") else size
        before = (wanted - size) // 2
        waves = torch.stack([song.window(segment.start - before, wanted) for segment in segments])
        separated: Tensor = self._module(waves.to(self.device))
        return separated[:, list(self.weights), :, before : before + size]


class Part:
    """What a member has made of one song so far."""

    def __init__(self, member: Member, song: NormalisedMixture, block: int, dice: random.Random) -> None:
        """``block``: frames of the longest step."""
        self.weights = member.weights
        self._member, self._song = member, song
        walks = member.cut.walks(song.frames, dice)
        self._totals = [WeightedOverlapAdd(walk, len(member.weights), block, member.device) for walk in walks]

    @property
    def segments(self) -> int:
        """How many the network is given in all."""
        return sum(total.walk.count for total in self._totals)

    def advance(self, end: int, on_batch: Callable[[int], None]) -> Tensor:
        """The song's next ``(stems, channels, frames)``, up to ``end``: the average of the walks.

        ``on_batch`` hears of every batch before it is run, and how many segments it has.
        """
        for batch in self._due(end):
            on_batch(len(batch))
            separated = self._member(self._song, [segment for _, segment in batch])
            for (total, segment), output in zip(batch, separated, strict=True):
                total.add(segment, output)
        average, *others = (total.take(end) for total in self._totals)
        for other in others:
            average += other
        return average.div_(len(self._totals))

    def _due(self, end: int) -> Iterator[list[tuple[WeightedOverlapAdd, Segment]]]:
        """Batches of segments of the same size, those of each walk in their order: their sizes never rise."""
        due = [(total, segment) for total in self._totals for segment in total.due(end)]
        due.sort(key=lambda each: -each[1].size)
        for _, same in groupby(due, key=lambda each: each[1].size):
            alike = list(same)
            for first in range(0, len(alike), self._member.batch):
                yield alike[first : first + self._member.batch]


def members_of(network: Any, model: Any) -> list[Member]:
    """Of what the library's loader gives."""
    return [Member(module, weights, model) for module, weights in _weighted(network)]


def is_driven(network: Any, model: Any) -> bool:
    """Whether songs are cut into segments, and no network minds which random numbers it is given.

    Those of which stock knows how long a segment is; the others it cannot run either.
    """
    modules = [module for module, _ in _weighted(network)]
    cut = model.segments_enabled and all(isinstance(module.segment, Real) for module in modules)
    return cut and not any(getattr(_transformer(module), "sin_random_shift", 0) for module in modules)


def _weighted(network: Any) -> list[tuple[Any, Sequence[float]]]:
    if isinstance(network, BagOfModels):
        return list(zip(network.models, network.weights, strict=True))
    return [(network, [1.0] * len(network.sources))]


def _transformer(module: Any) -> Any:
    return getattr(module, "crosstransformer", None)
