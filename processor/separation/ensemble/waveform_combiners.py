"""Algorithms that take the samples of several stems as they are, a block at a time.

Formulas and the order of operations are those of audio-separator's ``Ensembler``: the results are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from processor.audio.wav import Samples

Stack = NDArray[Any]
"""Blocks of several stems, ``(stems, ...)``, real or complex."""


def average(stack: Stack, weights: Sequence[float]) -> Stack:
    """The average, weighted: added up in single precision, in the stems' order."""
    total = np.zeros_like(stack[0])
    for block, weight in zip(stack, np.array(weights), strict=True):
        total += block * weight
    mean: Stack = (total / np.sum(weights)).astype(stack.dtype)
    return mean


def median(stack: Stack, _weights: Sequence[float]) -> Stack:
    """The middle one, or the mean of the two in the middle."""
    middle: Stack = np.median(stack, axis=0)
    return middle


def smallest(stack: Stack, _weights: Sequence[float]) -> Stack:
    """What is nearest to zero; of several, the first."""
    return _taken(stack, np.argmin(np.abs(stack), axis=0))


def largest(stack: Stack, _weights: Sequence[float]) -> Stack:
    """What is farthest from zero; of several, the first."""
    return _taken(stack, np.argmax(np.abs(stack), axis=0))


def quietest(stems: Sequence[Iterable[Samples]]) -> NDArray[np.intp]:
    """Of each channel, which stem has the smallest mean magnitude.

    audio-separator means to choose anew for each 240th part of a song, but divides the channels instead of the frames.
    """
    sums = [sum(np.abs(block).sum(axis=0, dtype=np.float64) for block in blocks) for blocks in stems]
    choice: NDArray[np.intp] = np.argmin(np.stack(sums), axis=0)
    return choice


def select_samples(stack: Stack, stems: NDArray[np.intp]) -> Stack:
    """Each channel ``(stems, frames, channels)`` from the stem that was chosen for it."""
    return np.stack([stack[stem, :, channel] for channel, stem in enumerate(stems)], axis=1)


def _taken(stack: Stack, indices: NDArray[np.intp]) -> Stack:
    taken: Stack = np.take_along_axis(stack, indices[np.newaxis], axis=0)[0]
    return taken
