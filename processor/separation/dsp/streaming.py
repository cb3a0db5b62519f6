"""Streaming versions of functions of a whole sequence: the concatenated output equals the output for the whole.

Time is the last axis of every array here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class StreamingTransform:
    """Applies a function whose output depends only on nearby input, and at the ends on the ends of the sequence.

    Runs the function over overlapping blocks and drops the output near the edges of a block that are not ends of the
    sequence.
    """

    def __init__(self, function: Callable[[Array], Array], period: tuple[int, int], reach: int) -> None:
        """``period``: advance of the input and of the output, each in its own frames, after which the function repeats.
        ``reach``: how many periods away the input still influences the output."""
        self._function = function
        self._input_period, self._output_period = period
        self._reach = reach
        self._buffer: Array | None = None
        #: Periods at the beginning of the buffer whose output was returned. They are kept as context.
        self._done = 0

    def push(self, piece: Array, *, last: bool = False) -> Array:
        """Return the next output that no later input influences; with the ``last`` piece, all the rest."""
        buffer = piece if self._buffer is None else np.concatenate((self._buffer, piece), axis=-1)
        output = self._function(buffer)
        if last:
            self._buffer = None
            return output[..., self._done * self._output_period :]
        final = max(self._done, buffer.shape[-1] // self._input_period - self._reach)
        fresh = output[..., self._done * self._output_period : final * self._output_period]
        dropped = max(0, final - self._reach)
        self._buffer = buffer[..., dropped * self._input_period :].copy()
        self._done = final - dropped
        return fresh


class StreamAligner:
    """Aligns several sequences that arrive at different rates."""

    def __init__(self) -> None:
        self._buffers: list[Array] | None = None

    def push(self, pieces: Sequence[Array]) -> list[Array]:
        """Take the next piece of every sequence and return the part that all of them have, of equal length."""
        if self._buffers is not None:
            pieces = [np.concatenate(both, axis=-1) for both in zip(self._buffers, pieces, strict=True)]
        common = min(piece.shape[-1] for piece in pieces)
        self._buffers = [piece[..., common:].copy() for piece in pieces]
        return [piece[..., :common] for piece in pieces]


def sliding_windows(spectra: Iterable[Array], size: int, margin: int) -> Iterator[tuple[Array, Array]]:
    """Yield windows of ``size`` frames ``(channels, bins, frames)`` with their middles, which do not overlap.

    A middle is the window without ``margin`` frames on both sides. The song is padded with ``margin`` frames of silence
    before it, and with as many as needed after it.
    """
    step = size - 2 * margin
    buffer: Array | None = None
    for piece in spectra:
        before = np.zeros((*piece.shape[:-1], margin), piece.dtype) if buffer is None else buffer
        buffer = np.concatenate((before, piece), axis=-1)
        while buffer.shape[-1] >= size:
            yield buffer[..., :size], buffer[..., margin : margin + step]
            buffer = buffer[..., step:]
    while buffer is not None and buffer.shape[-1] > margin:
        window = buffer[..., :size]
        padding = ((0, 0), (0, 0), (0, size - window.shape[-1]))
        yield np.pad(window, padding), buffer[..., margin : margin + step]
        buffer = buffer[..., step:]
