"""Combination of several files with stems of the same name into the blocks of one stem."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import soundfile

from pipeline.model_choice import Algorithm
from processor.audio.wav import Samples, read_blocks
from processor.separation.ensemble import stft_combiners, waveform_combiners
from processor.separation.ensemble.waveform_combiners import Stack

#: Frames of each stem that are in memory at once: whole hops of the transform.
BLOCK_FRAMES = 64 * stft_combiners.HOP

_WAVEFORM_COMBINERS: Mapping[Algorithm, Callable[[Stack, Sequence[float]], Stack]] = {
    Algorithm.AVG_WAVE: waveform_combiners.average,
    Algorithm.MEDIAN_WAVE: waveform_combiners.median,
    Algorithm.MIN_WAVE: waveform_combiners.smallest,
    Algorithm.MAX_WAVE: waveform_combiners.largest,
}
_STFT_COMBINERS: Mapping[Algorithm, stft_combiners.Combine] = {
    Algorithm.AVG_FFT: waveform_combiners.average,
    Algorithm.MEDIAN_FFT: stft_combiners.median_of_parts,
    Algorithm.MIN_FFT: waveform_combiners.smallest,
    Algorithm.MAX_FFT: waveform_combiners.largest,
    Algorithm.UVR_MIN_SPEC: stft_combiners.smallest_last,
    Algorithm.UVR_MAX_SPEC: stft_combiners.largest_last,
}


def combine_stems(algorithm: Algorithm, stems: Sequence[Path], weights: Sequence[float] | None) -> Iterator[Samples]:
    """Return the blocks ``(frames, channels)``, float32, of the combined ``stems``: float WAVs of the same shape.

    A single stem is returned unchanged. Weights are ignored if their number is not that of the stems: all stems then
    have equal weight, as audio-separator treats a stem that not all models have.
    """
    if len(stems) == 1:
        return read_blocks(stems[0])
    if weights is None or len(weights) != len(stems):
        weights = [1.0] * len(stems)
    if algorithm is Algorithm.ENSEMBLE_WAV:
        choice = waveform_combiners.quietest([read_blocks(stem) for stem in stems])
        return (waveform_combiners.select_samples(stack, choice) for stack in _stacks(stems))
    if algorithm in _WAVEFORM_COMBINERS:
        return (_WAVEFORM_COMBINERS[algorithm](stack, weights) for stack in _stacks(stems))
    return stft_combiners.combine_spectra(_stacks(stems), _STFT_COMBINERS[algorithm], weights)


def _stacks(stems: Sequence[Path]) -> Iterator[Stack]:
    """Yield the stems' blocks, stacked to ``(stems, frames, channels)``."""
    with ExitStack() as stack:
        files = [stack.enter_context(soundfile.SoundFile(stem)) for stem in stems]
        while len((blocks := [file.read(BLOCK_FRAMES, dtype="float32", always_2d=True) for file in files])[0]):
            yield np.stack(blocks)
