"""Demucs models over a song, in memory that does not depend on its length.

audio-separator's own way (``apply_model``), with its parameters: the song is normalised, and every network of the bag
walks over it several times, each time shifted at random and cut into segments that overlap. The walks are averaged, and
so are the networks, with the weights of the bag. Where a network wants more than a segment has, it is given the song
around it. What differs:

* all walks of all networks go over the song together, a block at a time, instead of one after the other. Each has an
  overlap-add of its own, which holds a segment and a block; nothing is as long as the song, in memory or on the disk;
* the random shifts, which stock draws between the walks, are drawn before them, in the same order, from the same seed
  for every song: twice the same song gives the same stems. Some networks draw a number of their own at each segment,
  from a range of one: those are drawn as well;
* the mean and the spread by which the song is normalised, see ``NormalisedMixture``. Where they come out the same, stems
  are the same bit for bit;
* a stem to which the bag gives no weight is not added up: of each network of htdemucs_ft that leaves one of four;
* a network that counts for no stem that is wanted is not run: for the voice alone, one of htdemucs_ft's four is. Its
  random numbers are drawn all the same, so that the others get theirs;
* a GPU is given several segments at a time, of any walks; a CPU one, as stock does: two or four took it as long;
* networks are loaded once, and not for every song;
* stems have the names that the networks have for them. Stock goes by their number.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from audio_separator.separator.architectures import demucs_separator
from audio_separator.separator.uvr_lib_v5.demucs.apply import demucs_segments
from audio_separator.separator.uvr_lib_v5.demucs.pretrained import get_model
from torch import Tensor

from processor.separation.architectures.demucs_bag import Member, Part, is_driven, members_of
from processor.separation.architectures.fallback import UpstreamSeparator, replaced_attribute
from processor.separation.dsp.mixture import CHANNELS, open_mixture
from processor.separation.dsp.weighted_overlap_add import NormalisedMixture
from processor.separation.separator import OnProgress, ReducedSeparator, Separator, Write
from processor.separation.stems import normalise_stem_name

#: What clients are told of segments that are halved, once and twice, where memory is short.
_SHORTER = ("segment_half", "segment_quarter")


def load_demucs(model: Any, run: Callable[[Path], object]) -> Separator:
    """The driver of a loaded ``DemucsSeparator``, whose networks are read from their files here and never again.

    ``run`` has the library run the model over a file: for models that are not driven by us, see ``is_driven``.
    Raises whatever the library's loader raises, ``ModelLoadingError`` for a file that has not the hash in its name.
    """
    path = Path(model.model_path)
    network = demucs_segments(model.segment_size, get_model(path.stem, path.parent))
    network.to(model.torch_device).eval()
    if is_driven(network, model):
        return DemucsSeparator(network.sources, members_of(network, model))
    return UpstreamSeparator(model, partial(_run_loaded, network, run))


class DemucsSeparator:
    """The networks of a Demucs model, driven."""

    def __init__(self, sources: Sequence[str], members: Sequence[Member]) -> None:
        """``sources``: the networks' names for their stems, in order."""
        self._names = tuple(map(normalise_stem_name, sources))
        self._members = members
        self._wanted = tuple(range(len(self._names)))
        self._halved = 0

    @property
    def device(self) -> str:
        """See ``Separator``."""
        return self._members[0].device.type

    @property
    def stems(self) -> frozenset[str]:
        """See ``Separator``."""
        return frozenset(self._names[number] for number in self._wanted)

    def only(self, wanted: Collection[str]) -> DemucsSeparator:
        """See ``Separator``."""
        separator = copy.copy(self)
        separator._wanted = tuple(number for number in self._wanted if self._names[number] in wanted)
        separator._members = [member.only(separator._wanted) for member in self._members]
        return separator

    def lighter(self) -> ReducedSeparator | None:
        """See ``Separator``. A segment at a time; then segments of half the length, and of a quarter."""
        shorten = all(member.batch == 1 for member in self._members)
        halved = self._halved + shorten
        if halved > len(_SHORTER):
            return None
        separator = copy.copy(self)
        separator._members = [member.lighter(2 if shorten else 1) for member in self._members]
        separator._halved = halved
        return ReducedSeparator(_SHORTER[halved - 1] if shorten else "batch_1", separator)

    @torch.inference_mode()
    def separate(self, mixture: Path, write: Write, on_progress: OnProgress) -> None:
        """See ``Separator``."""
        with open_mixture(mixture) as file:
            song = NormalisedMixture(file)
            block = max(member.block for member in self._members)
            dice = random.Random(0)
            # All of them draw their random numbers, in their order.
            parts = [Part(member, song, block, dice) for member in self._members]
            parts = [part for part in parts if part.weights]
            steps = _Steps(on_progress, sum(part.segments for part in parts))
            for start in range(0, song.frames, block):
                stems = self._averaged(parts, start, min(start + block, song.frames), steps)
                for number, stem in zip(self._wanted, song.restored(stems).cpu().numpy(), strict=True):
                    write(self._names[number], stem.T)
        on_progress(1.0)

    def _averaged(self, parts: Sequence[Part], start: int, end: int, steps: _Steps) -> Tensor:
        """The song's ``(stems, channels, frames)`` from ``start`` to ``end``, still normalised."""
        total = torch.zeros(len(self._wanted), CHANNELS, end - start, device=self._members[0].device)
        places = {number: place for place, number in enumerate(self._wanted)}
        for part in parts:
            separated = part.advance(end, steps.about_to_run)
            for (number, weight), stem in zip(part.weights.items(), separated, strict=True):
                total[places[number]] += stem * weight
        for number, stem in zip(self._wanted, total, strict=True):
            stem /= sum(part.weights.get(number, 0) for part in parts)
        return total


class _Steps:
    """Counts segments for the progress."""

    def __init__(self, on_progress: OnProgress, total: int) -> None:
        self._on_progress, self._total = on_progress, total
        self._done = 0

    def about_to_run(self, count: int) -> None:
        """Raises what ``on_progress`` raises."""
        self._on_progress(self._done / self._total)
        self._done += count


def _run_loaded(network: Any, run: Callable[[Path], object], mixture: Path) -> None:
    """Run the model over a file with a network that is loaded already."""
    with replaced_attribute(demucs_separator, "get_demucs_model", lambda **_: network):
        run(mixture)
