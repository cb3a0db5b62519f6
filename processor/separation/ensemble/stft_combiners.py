"""Algorithms that combine the short-time spectra of several stems, streamed through the transform and back.

The transform is that of audio-separator's ``Ensembler`` (librosa's ``stft`` and ``istft`` with their defaults, frames
of 2048 samples, 1024 apart): periodic Hann windows, centred frames, zeros around the song. The inverse is divided by
the sum of the squared windows. A frame spans two hops, so only one hop of each stem and half a frame of the sum are
held from one block to the next.

The last frame of audio-separator is centred on the last whole hop. Where the song continues after it, its last samples,
fewer than a hop, are in the falling half of that one frame: ``avg_fft``, ``median_fft``, ``min_fft`` and ``max_fft``
divide the combined spectra there by nearly zero, and ``uvr_max_spec`` and ``uvr_min_spec`` cut the song off. Here there
is one more frame, and those samples are treated like all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from processor.audio.wav import Samples
from processor.separation.ensemble.waveform_combiners import Stack, median

HOP = 1024
FRAME = 2 * HOP

#: Hann, periodic.
_WINDOW = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(FRAME) / FRAME)
_SQUARES = (_WINDOW[:HOP] ** 2 + _WINDOW[HOP:] ** 2).astype(np.float32)

Combine = Callable[[Stack, Sequence[float]], Stack]
"""Receives spectra ``(stems, channels, frames, bins)``, complex64, and a weight for each stem."""


def median_of_parts(stack: Stack, weights: Sequence[float]) -> Stack:
    """Return the medians of the real and of the imaginary parts."""
    both: Stack = median(stack.real, weights) + 1j * median(stack.imag, weights)
    return both


def smallest_last(stack: Stack, _weights: Sequence[float]) -> Stack:
    """Return the values of the smallest magnitude; of several, the last."""
    best: Stack = stack[0]
    for block in stack[1:]:
        best = np.where(np.abs(block) <= np.abs(best), block, best)
    return best


def largest_last(stack: Stack, _weights: Sequence[float]) -> Stack:
    """Return the values of the largest magnitude; of several, the last."""
    best: Stack = stack[0]
    for block in stack[1:]:
        best = np.where(np.abs(block) >= np.abs(best), block, best)
    return best


def combine_spectra(stacks: Iterable[Stack], combine: Combine, weights: Sequence[float]) -> Iterator[Samples]:
    """Yield the combined blocks ``(frames, channels)`` of blocks ``(stems, frames, channels)``.

    All blocks except the last one must be whole hops long. The output lags one hop behind the input; the last block
    contains the missing hop.
    """
    remaining = 0
    previous: NDArray[np.float32] | None = None
    for length, samples in _with_previous_hop(stacks):
        frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME, axis=2)[:, :, ::HOP]
        spectra: Stack = np.fft.rfft(frames * _WINDOW).astype(np.complex64)
        block, previous = _synthesise(combine(spectra, weights), previous)
        remaining += length
        yield block[:remaining]
        remaining -= len(block)


def _with_previous_hop(stacks: Iterable[Stack]) -> Iterator[tuple[int, Stack]]:
    """Yield the length of each block, and its samples ``(stems, channels, frames)`` with the hop before them.

    The samples are padded to whole hops. A hop of silence follows the last block, with length 0.
    """
    previous: Stack | None = None
    for stack in stacks:
        whole_hops = np.pad(stack, ((0, 0), (0, -stack.shape[1] % HOP), (0, 0)))
        samples = whole_hops.transpose(0, 2, 1)
        if previous is None:
            previous = np.zeros_like(samples[..., :HOP])
        yield stack.shape[1], np.concatenate([previous, samples], axis=2)
        previous = samples[..., -HOP:].copy()
    if previous is not None:
        yield 0, np.concatenate([previous, np.zeros_like(previous)], axis=2)


def _synthesise(spectra: Stack, previous: NDArray[np.float32] | None) -> tuple[Samples, NDArray[np.float32]]:
    """Return the samples ``(frames, channels)`` that no spectrum after ``(channels, hops, bins)`` overlaps.

    These are one hop per spectrum, except for the very first, whose first half is before the song. ``previous``: the
    second half of the last frame so far, which is the second result; None at the beginning.
    """
    frames = np.fft.irfft(spectra.astype(np.complex64), n=FRAME) * _WINDOW
    first, second = frames[..., :HOP], frames[..., HOP:].astype(np.float32)
    before = second[:, :0] if previous is None else previous
    earlier = np.concatenate([before, second[:, :-1]], axis=1)
    later = first[:, first.shape[1] - earlier.shape[1] :]
    hops = (earlier + later).astype(np.float32) / _SQUARES
    return np.ascontiguousarray(hops.reshape(len(hops), -1).T), second[:, -1:]
