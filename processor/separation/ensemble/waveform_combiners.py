"""Algorithms that combine the samples of several stems, one block at a time.

The formulas and the order of operations are those of audio-separator's ``Ensembler``, so the results are the same bit
for bit.
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
    """Return the weighted average, added up in single precision, in the stems' order."""
    total = np.zeros_like(stack[0])
    for block, weight in zip(stack, np.array(weights), strict=True):
        total += block * weight
    mean: Stack = (total / np.sum(weights)).astype(stack.dtype)
    return mean


def median(stack: Stack, _weights: Sequence[float]) -> Stack:
    """Return the median: the middle value, or the mean of the two middle values."""
    middle: Stack = np.median(stack, axis=0)
    return middle


def smallest(stack: Stack, _weights: Sequence[float]) -> Stack:
    """Return the values of the smallest magnitude; of several, the first."""
    indices = np.argmin(np.abs(stack), axis=0)
    values: Stack = np.take_along_axis(stack, indices[np.newaxis], axis=0)[0]
    return values


def largest(stack: Stack, _weights: Sequence[float]) -> Stack:
    """Return the values of the largest magnitude; of several, the first."""
    indices = np.argmax(np.abs(stack), axis=0)
    values: Stack = np.take_along_axis(stack, indices[np.newaxis], axis=0)[0]
    return values


def quietest(stems: Sequence[Iterable[Samples]]) -> NDArray[np.intp]:
    """Return the index of the stem with the smallest mean magnitude, for each channel.

    audio-separator intends a new choice for every 240th of a song, but divides the channels instead of the frames.
    """
    sums = [sum(np.abs(block).sum(axis=0, dtype=np.float64) for block in blocks) for blocks in stems]
    choice: NDArray[np.intp] = np.argmin(np.stack(sums), axis=0)
    return choice


def select_samples(stack: Stack, stems: NDArray[np.intp]) -> Stack:
    """Return ``(frames, channels)``: each channel of ``(stems, frames, channels)`` from the stem chosen for it."""
    return np.stack([stack[stem, :, channel] for channel, stem in enumerate(stems)], axis=1)
