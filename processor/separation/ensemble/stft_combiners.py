"""Algorithms that combine the short-time spectra of several stems, streamed through the transform and back.

The transform is the one of audio-separator's ``Ensembler`` (librosa's ``stft`` and ``istft`` with its defaults, frames
of 2048 samples, 1024 apart): periodic Hann windows, frames centred, zeros around the song; the inverse is divided by
the sum of the squared windows. A frame sees two hops, so a hop of each stem and half a frame of the sum are all that is
held from one block to the next.

The last frame of theirs is centred on the last whole hop. Where a song goes on after that, its last samples, fewer than
a hop, lie in the falling half of that one frame: ``avg_fft``, ``median_fft``, ``min_fft`` and ``max_fft`` divide what
combined spectra have there by next to nothing, and ``uvr_max_spec`` and ``uvr_min_spec`` cut the song off. Here there
is one frame more, and those samples are like any others.
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
"""Takes spectra ``(stems, channels, frames, bins)``, complex64, and a weight for each stem."""


def median_of_parts(stack: Stack, weights: Sequence[float]) -> Stack:
    """Of the real and the imaginary parts, each by itself."""
    both: Stack = median(stack.real, weights) + 1j * median(stack.imag, weights)
    return both


def smallest_last(stack: Stack, _weights: Sequence[float]) -> Stack:
    """What is nearest to zero; of several, the last."""
    best: Stack = stack[0]
    for block in stack[1:]:
        best = np.where(np.abs(block) <= np.abs(best), block, best)
    return best


def largest_last(stack: Stack, _weights: Sequence[float]) -> Stack:
    """What is farthest from zero; of several, the last."""
    best: Stack = stack[0]
    for block in stack[1:]:
        best = np.where(np.abs(block) >= np.abs(best), block, best)
    return best


def combine_spectra(stacks: Iterable[Stack], combine: Combine, weights: Sequence[float]) -> Iterator[Samples]:
    """Blocks ``(stems, frames, channels)``, whole hops but for the last one, to those of the result.

    The blocks are not those that came in: each lags a hop behind, and the last one makes up for it.
    """
    transforms, inverse, left = _Analysis(), _Synthesis(), 0
    for stack in stacks:
        left += stack.shape[1]
        done = inverse.add(combine(transforms.add(_whole_hops(stack)), weights))
        yield done[:left]
        left -= len(done)
    silence = np.zeros_like(stack, shape=(len(stack), HOP, stack.shape[2]))
    yield inverse.add(combine(transforms.add(silence), weights))[:left]


def _whole_hops(stack: Stack) -> Stack:
    return np.pad(stack, ((0, 0), (0, -stack.shape[1] % HOP), (0, 0)))


class _Analysis:
    """Samples to spectra."""

    def __init__(self) -> None:
        self._held: Stack | None = None

    def add(self, stack: Stack) -> Stack:
        """Hops ``(stems, frames, channels)`` to as many spectra ``(stems, channels, hops, bins)``, complex64."""
        samples = stack.transpose(0, 2, 1)
        before = np.zeros_like(samples[..., :HOP]) if self._held is None else self._held
        self._held = samples[..., -HOP:].copy()
        hops = np.concatenate([before, samples], axis=2)
        frames = np.lib.stride_tricks.sliding_window_view(hops, FRAME, axis=2)[:, :, ::HOP]
        spectra: Stack = np.fft.rfft(frames * _WINDOW).astype(np.complex64)
        return spectra


class _Synthesis:
    """Spectra to samples."""

    def __init__(self) -> None:
        self._held: NDArray[np.float32] | None = None

    def add(self, spectra: Stack) -> Samples:
        """Spectra ``(channels, hops, bins)`` to the samples ``(frames, channels)`` that no later one has a say in.

        A hop for each, but for the very first, whose first half is before the song.
        """
        frames = np.fft.irfft(spectra.astype(np.complex64), n=FRAME) * _WINDOW
        first, second = frames[..., :HOP], frames[..., HOP:].astype(np.float32)
        before = second[:, :0] if self._held is None else self._held
        self._held = second[:, -1:]
        earlier = np.concatenate([before, second[:, :-1]], axis=1)
        later = first[:, first.shape[1] - earlier.shape[1] :]
        hops = (earlier + later).astype(np.float32) / _SQUARES
        return np.ascontiguousarray(hops.reshape(len(hops), -1).T)
