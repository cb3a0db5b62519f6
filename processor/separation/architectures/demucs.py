"""Demucs models over a song, in memory that does not depend on its length.

Follows audio-separator (``apply_model``), with its parameters: the song is normalised, and every network of the bag
passes over it several times, each time shifted at random and divided into overlapping segments. The passes are
averaged, and so are the networks, with the weights of the bag. Where a network takes more than a segment, it gets the
surrounding samples of the song. The differences:

* all passes of all networks advance together, one block of the song at a time, instead of one after the other. Each has
  its own overlap-add, which holds a segment and a block; nothing is as long as the song, in memory or on the disk;
* the random shifts, which audio-separator draws between the passes, are drawn before them, in the same order, from the
  same seed for every song: the same song gives the same stems every time. Some networks draw a number of their own for
  each segment, from a range of one: those draws are made as well;
* the mean and the standard deviation by which the song is normalised, see ``NormalisedMixture``. Where they are equal
  to audio-separator's, the stems are the same bit for bit;
* a stem without a weight in the bag is not added up: for each network of htdemucs_ft, three of four;
* a network without a weight for any wanted stem is not run: for the vocals alone, one of htdemucs_ft's four is run. Its
  random numbers are drawn all the same, so that the other networks get theirs;
* a GPU takes several segments at a time, of any pass. A CPU takes one, as in audio-separator: two or four took equally
  long;
* networks are loaded once, and not for every song;
* stems have the networks' own names. audio-separator names them by their number.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from audio_separator.separator.architectures import demucs_separator
from audio_separator.separator.uvr_lib_v5.demucs.apply import demucs_segments
from audio_separator.separator.uvr_lib_v5.demucs.pretrained import get_model
from torch import Tensor

from pipeline.stem_name import stem_names
from processor.separation.architectures.demucs_bag import BagMember, MemberSeparation, bag_members
from processor.separation.architectures.fallback import UpstreamSeparator, replaced_attribute
from processor.separation.dsp.mixture import CHANNELS, open_mixture
from processor.separation.dsp.weighted_overlap_add import NormalisedMixture
from processor.separation.separator import BaseSeparator, OnProgress, ReducedSeparator, Separator, Write

#: Names of the steps that halve the segments, once and twice.
_HALVING_STEPS = ("segment_half", "segment_quarter")


def load_demucs(model: Any, run: Callable[[Path], object]) -> Separator:
    """Return the separator of a loaded ``DemucsSeparator``. Reads the networks from their files, once.

    ``run`` runs audio-separator's own loops over a file: for models that cannot be streamed, see ``bag_members``.
    Raises what audio-separator's loader raises: ``ModelLoadingError`` for a file whose hash is not the one in its name.
    """
    path = Path(model.model_path)
    network = demucs_segments(model.segment_size, get_model(path.stem, path.parent))
    network.to(model.torch_device).eval()
    members = bag_members(network, model)
    if members is not None:
        return DemucsSeparator(network.sources, members)

    def run_loaded(mixture: Path) -> None:
        with replaced_attribute(demucs_separator, "get_demucs_model", lambda **_: network):
            run(mixture)

    return UpstreamSeparator(model, run_loaded)


class DemucsSeparator(BaseSeparator):
    """Separates with the networks of a Demucs model."""

    def __init__(self, sources: Sequence[str], members: Sequence[BagMember]) -> None:
        """``sources``: the networks' names for their stems, in order."""
        self._names = stem_names(sources)
        self._members = members
        self._wanted = tuple(range(len(self._names)))
        self._halved = 0
        self.stems = frozenset(self._names)
        self.device: str = members[0].device.type

    def only(self, wanted: Collection[str]) -> Self:
        """See ``Separator``."""
        separator = copy.copy(self)
        separator._wanted = tuple(number for number in self._wanted if self._names[number] in wanted)
        separator.stems = frozenset(self._names[number] for number in separator._wanted)
        separator._members = [member.only(separator._wanted) for member in self._members]
        return separator

    def reduce_memory(self) -> ReducedSeparator | None:
        """See ``Separator``. First one segment at a time, then segments of half and of a quarter of the length."""
        halve = all(member.batch == 1 for member in self._members)
        halved = self._halved + halve
        if halved > len(_HALVING_STEPS):
            return None
        separator = copy.copy(self)
        separator._members = [member.reduced(2 if halve else 1) for member in self._members]
        separator._halved = halved
        return ReducedSeparator(_HALVING_STEPS[halved - 1] if halve else "batch_1", separator)

    @torch.inference_mode()
    def separate(self, mixture: Path, write: Write, on_progress: OnProgress) -> None:
        """See ``Separator``."""
        with open_mixture(mixture) as file:
            song = NormalisedMixture(file)
            block = max(member.block for member in self._members)
            rng = random.Random(0)  # noqa: S311  shifts of the signal, repeatable
            # Every member draws its random numbers, in order, even if it is not run.
            parts = [MemberSeparation(member, song, block, rng) for member in self._members]
            parts = [part for part in parts if part.weights]
            done, total = 0, sum(part.segments for part in parts)

            def on_batch(count: int) -> None:
                nonlocal done
                on_progress(done / total)
                done += count

            for start in range(0, song.frames, block):
                stems = self._average(parts, start, min(start + block, song.frames), on_batch)
                for number, stem in zip(self._wanted, song.denormalise(stems).cpu().numpy(), strict=True):
                    write(self._names[number], stem.T)
        on_progress(1.0)

    def _average(
        self, parts: Sequence[MemberSeparation], start: int, end: int, on_batch: Callable[[int], None]
    ) -> Tensor:
        """Return the song's ``(stems, channels, frames)`` from ``start`` to ``end``, still normalised."""
        total = torch.zeros(len(self._wanted), CHANNELS, end - start, device=self._members[0].device)
        places = {number: place for place, number in enumerate(self._wanted)}
        for part in parts:
            separated = part.advance(end, on_batch)
            for (number, weight), stem in zip(part.weights.items(), separated, strict=True):
                total[places[number]] += stem * weight
        for number, stem in zip(self._wanted, total, strict=True):
            stem /= sum(part.weights.get(number, 0) for part in parts)
        return total
