"""audio-separator's own loops, for models that have no driver of ours: the whole song is in memory.

Stems are taken as float arrays where the library would write them: it writes 16 bits, truncated, under names that would
have to be guessed from. Progress is heard, and a cancel obeyed, where it loops over the song.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from processor.audio.wav import BLOCK_FRAMES, SAMPLE_RATE, Samples
from processor.separation.dsp.mixture import open_mixture, require_finite
from processor.separation.separator import OnProgress, ReducedSeparator, Write
from processor.separation.stems import StemMissingError, normalise_stem_name

#: How far a stem's length may be from the song's, frames: the VR path gives whole hops of its transform.
_FIT = SAMPLE_RATE // 10

#: Where Demucs loops over a song; the other architectures do it in the module of their model.
_DEMUCS_LOOP = "audio_separator.separator.uvr_lib_v5.demucs.apply"


class UpstreamSeparator:
    """A loaded model of audio-separator's, which ``run`` runs over a file."""

    def __init__(self, model: Any, run: Callable[[Path], object]) -> None:
        self._model = model
        self._run = run

    @property
    def device(self) -> str:
        """See ``Separator``."""
        return str(self._model.torch_device.type)

    @property
    def stems(self) -> frozenset[str] | None:
        """See ``Separator``; it is Demucs whose run alone tells."""
        if hasattr(self._model, "demucs_source_map"):
            return None
        training = self._model.model_data.get("training", {})
        instruments = training.get("instruments") or ()
        if len(instruments) > 2 and not training.get("target_instrument"):
            return frozenset(map(normalise_stem_name, instruments))
        return frozenset(map(normalise_stem_name, (self._model.primary_stem_name, self._model.secondary_stem_name)))

    def only(self, wanted: Collection[str]) -> UpstreamSeparator:
        """See ``Separator``. Itself: the library's loops give all there is."""
        return self

    def lighter(self) -> ReducedSeparator | None:
        """See ``Separator``. None: what takes the memory is the song."""
        return None

    def separate(self, mixture: Path, write: Write, on_progress: OnProgress) -> None:
        """See ``Separator``."""
        frames = _frames_of(mixture)
        sources: dict[str, Samples] = {}
        random.seed(0)  # Demucs shifts the song by random amounts; twice the same song must give the same stems
        with _instrumented(self._model, sources, on_progress):
            self._run(mixture)
        if self.stems is None:
            absent = set(map(normalise_stem_name, self._model.demucs_source_map)) - sources.keys()
            if absent:
                raise StemMissingError(f"the model gave no {' and no '.join(sorted(absent))}")
        for name, source in sources.items():
            for block in _fitted(name, source, frames):
                write(name, block)


def _frames_of(mixture: Path) -> int:
    """How long the song is. Raises ValueError for what the library fails on, each architecture in a way of its own."""
    with open_mixture(mixture) as song:
        for block in song.blocks(blocksize=BLOCK_FRAMES, dtype="float32"):
            require_finite(block)
        return int(song.frames)


def _fitted(name: str, source: Samples, frames: int) -> Iterator[Samples]:
    """The blocks of a stem ``(frames, channels)``, as many frames in all as the song has."""
    if abs(len(source) - frames) > _FIT:
        raise StemMissingError(f"{name} has {len(source)} samples, the song has {frames}")
    for start in range(0, frames, BLOCK_FRAMES):
        block = source[start : min(start + BLOCK_FRAMES, frames)]
        lacking = min(BLOCK_FRAMES, frames - start) - len(block)
        yield np.pad(block, ((0, lacking), (0, 0))) if lacking else block


@contextmanager
def _instrumented(model: Any, sources: dict[str, Samples], on_progress: OnProgress) -> Iterator[None]:
    """Let the model run our way; afterwards it is as it was, and keeps none of the song in memory."""

    def capture(_path: str, source: Samples, stem_name: str) -> dict[str, Samples]:
        sources[normalise_stem_name(stem_name)] = np.asarray(source, dtype=np.float32)
        return {stem_name: source}

    steps = _Steps(on_progress)
    with (
        replaced_attribute(sys.modules[type(model).__module__], "tqdm", steps),
        replaced_attribute(sys.modules.get(_DEMUCS_LOOP), "tqdm", steps),
        replaced_attribute(model, "final_process", capture),
    ):
        yield


@contextmanager
def replaced_attribute(owner: Any, name: str, substitute: object) -> Iterator[None]:
    """``owner.name`` for a while, if the owner has such a thing."""
    if not hasattr(owner, name):
        yield
        return
    own = vars(owner).get(name)
    setattr(owner, name, substitute)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


class _Steps:
    """Stands in for ``tqdm``, through which the library loops over a song, and hears of every segment.

    Some models loop more than once: the progress never goes back.
    """

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._done = 0.0
        #: Some import the function, some the module of the same name.
        self.tqdm = self

    def __call__(self, items: Iterable[Any] = (), *_: object, **__: object) -> Iterator[Any]:
        steps = list(items)
        for number, item in enumerate(steps):
            self._tell(number / len(steps))
            yield item
        self._tell(1.0)

    def _tell(self, fraction: float) -> None:
        self._done = max(self._done, fraction)
        self._on_progress(self._done)
