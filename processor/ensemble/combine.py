"""Several stems of the same name, in files, to the blocks of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import soundfile

from pipeline.ensembles import Algorithm
from processor.ensemble import spectra, waves
from processor.ensemble.waves import Stack
from processor.wav import Samples, read_blocks

#: Frames of each stem that are in memory at once: whole hops of the transform.
BLOCK_FRAMES = 64 * spectra.HOP

_WAVES: Mapping[Algorithm, Callable[[Stack, Sequence[float]], Stack]] = {
    Algorithm.AVG_WAVE: waves.average,
    Algorithm.MEDIAN_WAVE: waves.median,
    Algorithm.MIN_WAVE: waves.smallest,
    Algorithm.MAX_WAVE: waves.largest,
}
_SPECTRA: Mapping[Algorithm, spectra.Combine] = {
    Algorithm.AVG_FFT: waves.average,
    Algorithm.MEDIAN_FFT: spectra.median_of_parts,
    Algorithm.MIN_FFT: waves.smallest,
    Algorithm.MAX_FFT: waves.largest,
    Algorithm.UVR_MIN_SPEC: spectra.smallest_last,
    Algorithm.UVR_MAX_SPEC: spectra.largest_last,
}


def combined(algorithm: Algorithm, stems: Sequence[Path], weights: Sequence[float] | None) -> Iterator[Samples]:
    """The blocks ``(frames, channels)``, float32, of what comes of ``stems``: float WAVs of the same shape.

    A single one stays as it is. Weights that are not as many as the stems do not count: all count the same then, which
    is what audio-separator makes of a stem that not all models have.
    """
    if len(stems) == 1:
        return read_blocks(stems[0])
    if weights is None or len(weights) != len(stems):
        weights = [1.0] * len(stems)
    if algorithm is Algorithm.ENSEMBLE_WAV:
        choice = waves.quietest([read_blocks(stem) for stem in stems])
        return (waves.chosen(stack, choice) for stack in _stacks(stems))
    if algorithm in _WAVES:
        return (_WAVES[algorithm](stack, weights) for stack in _stacks(stems))
    return spectra.combined(_stacks(stems), _SPECTRA[algorithm], weights)


def _stacks(stems: Sequence[Path]) -> Iterator[Stack]:
    """The stems' blocks side by side, ``(stems, frames, channels)``."""
    with ExitStack() as stack:
        files = [stack.enter_context(soundfile.SoundFile(stem)) for stem in stems]
        while len((blocks := [file.read(BLOCK_FRAMES, dtype="float32", always_2d=True) for file in files])[0]):
            yield np.stack(blocks)
