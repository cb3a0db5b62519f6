"""Separation through audio-separator's own loops, for models without a streaming separator: the song is in memory.

Stems are captured as float arrays where audio-separator would write them: it writes truncated 16-bit samples, under
names that would have to be guessed. Progress is reported, and cancellation is checked, where it loops over the song.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.stem_name import normalise_stem_name, stem_names
from processor.audio.wav import BLOCK_FRAMES, SAMPLE_RATE, Samples
from processor.separation.dsp.mixture import open_mixture, require_finite
from processor.separation.separator import BaseSeparator, OnProgress, Write, monotonic_progress
from processor.separation.stems import StemMissingError

#: Maximum difference between the lengths of a stem and the song, frames: VR models return whole hops of the transform.
_TOLERANCE = SAMPLE_RATE // 10

#: The module in which Demucs loops over a song. The other architectures loop in the module of their model.
_DEMUCS_LOOP = "audio_separator.separator.uvr_lib_v5.demucs.apply"


class UpstreamSeparator(BaseSeparator):
    """A loaded model of audio-separator, run by audio-separator itself."""

    def __init__(self, model: Any, run: Callable[[Path], object]) -> None:
        """``run`` runs the model over a file."""
        self._model = model
        self._run = run
        self.device = str(model.torch_device.type)
        #: Normalised names by the model's own names.
        self._names = _names(model)

    @property
    def stems(self) -> frozenset[str] | None:
        """See ``Separator``. The stems of a Demucs model are known only after a run."""
        if hasattr(self._model, "demucs_source_map"):
            return None
        return frozenset(self._names.values())

    def separate(self, mixture: Path, write: Write, on_progress: OnProgress) -> None:
        """See ``Separator``. Leaves the model as it was, without a reference to the song."""
        with open_mixture(mixture) as song:
            # Checked first, because each architecture fails on such samples with an error of its own.
            for block in song.blocks(blocksize=BLOCK_FRAMES, dtype="float32"):
                require_finite(block)
            frames = int(song.frames)
        sources: dict[str, Samples] = {}

        def capture(_path: str, source: Samples, stem_name: str) -> dict[str, Samples]:
            sources[self._names.get(stem_name) or normalise_stem_name(stem_name)] = np.asarray(source, dtype=np.float32)
            return {stem_name: source}

        progress_bar = _ProgressBar(on_progress)
        random.seed(0)  # Demucs shifts the song at random; the same song must give the same stems every time
        with (
            replaced_attribute(sys.modules[type(self._model).__module__], "tqdm", progress_bar),
            replaced_attribute(sys.modules.get(_DEMUCS_LOOP), "tqdm", progress_bar),
            replaced_attribute(self._model, "final_process", capture),
        ):
            self._run(mixture)
        if self.stems is None:
            absent = set(self._names.values()) - sources.keys()
            if absent:
                raise StemMissingError(f"the model gave no {' and no '.join(sorted(absent))}")
        for name, source in sources.items():
            for block in _fit_length(name, source, frames):
                write(name, block)


def _names(model: Any) -> dict[str, str]:
    training = model.model_data.get("training", {})
    names = getattr(model, "demucs_source_map", None) or training.get("instruments") or ()
    if len(names) < 3 or training.get("target_instrument"):
        names = (model.primary_stem_name, model.secondary_stem_name)
    return dict(zip(names, stem_names(names), strict=True))


def _fit_length(name: str, source: Samples, frames: int) -> Iterator[Samples]:
    """Yield the blocks of a stem ``(frames, channels)``, cut or zero-padded to the length of the song."""
    if abs(len(source) - frames) > _TOLERANCE:
        raise StemMissingError(f"{name} has {len(source)} samples, the song has {frames}")
    for start in range(0, frames, BLOCK_FRAMES):
        block = source[start : min(start + BLOCK_FRAMES, frames)]
        missing = min(BLOCK_FRAMES, frames - start) - len(block)
        yield np.pad(block, ((0, missing), (0, 0))) if missing else block


@contextmanager
def replaced_attribute(owner: Any, name: str, substitute: object) -> Iterator[None]:
    """Replace ``owner.name`` for the duration of the context, if the owner has that attribute."""
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


class _ProgressBar:
    """Replaces ``tqdm``, with which audio-separator loops over the segments of a song.

    Some models loop several times: the reported progress never decreases.
    """

    def __init__(self, on_progress: OnProgress) -> None:
        self._report = monotonic_progress(on_progress)
        #: Some modules import the function ``tqdm``, some the module of the same name.
        self.tqdm = self

    def __call__(self, items: Iterable[Any] = (), *_: object, **__: object) -> Iterator[Any]:
        steps = list(items)
        for number, item in enumerate(steps):
            self._report(number / len(steps))
            yield item
        self._report(1.0)
