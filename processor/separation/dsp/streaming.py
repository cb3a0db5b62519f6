"""Functions of a whole sequence, given it piece by piece: what they give is what they give of the whole.

Time is the last axis of every array here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class StreamingTransform:
    """A function whose output near a place depends on its input near that place alone, and on its ends at the ends.

    It is run over blocks that overlap, and what it gives near the cut ends of a block is dropped.
    """

    def __init__(self, function: Callable[[Array], Array], period: tuple[int, int], reach: int) -> None:
        """``period``: how much further in the output, in its units, one is after so many units of the input, with the
        function as it was. ``reach``: how many periods away the input still has a say."""
        self._function = function
        self._taken, self._given = period
        self._reach = reach
        self._held: Array | None = None
        #: Periods at the beginning of what is held that are done with, and kept for those behind them.
        self._done = 0

    def push(self, piece: Array, *, last: bool = False) -> Array:
        """The next of the output, as far as no later input has a say in it; with the ``last`` piece all the rest."""
        held = piece if self._held is None else np.concatenate((self._held, piece), axis=-1)
        output = self._function(held)
        if last:
            self._held = None
            return output[..., self._done * self._given :]
        certain = max(self._done, held.shape[-1] // self._taken - self._reach)
        fresh = output[..., self._done * self._given : certain * self._given]
        forgotten = max(0, certain - self._reach)
        self._held = held[..., forgotten * self._taken :].copy()
        self._done = certain - forgotten
        return fresh


class StreamAligner:
    """Sequences that advance at different times, side by side."""

    def __init__(self) -> None:
        self._held: list[Array] | None = None

    def push(self, pieces: Sequence[Array]) -> list[Array]:
        """The next of every sequence, as much as there is of all of them. Each push brings a piece of each."""
        if self._held is not None:
            pieces = [np.concatenate(both, axis=-1) for both in zip(self._held, pieces, strict=True)]
        common = min(piece.shape[-1] for piece in pieces)
        self._held = [piece[..., common:].copy() for piece in pieces]
        return [piece[..., :common] for piece in pieces]


def windows(spectra: Iterable[Array], size: int, margin: int) -> Iterator[tuple[Array, Array]]:
    """What the network is given at a time, ``size`` frames, and the part of it that no other has: the middle.

    The song has ``margin`` frames of silence in front, and as many as it takes behind.
    """
    step = size - 2 * margin
    held: Array | None = None
    for piece in spectra:
        before = np.zeros((*piece.shape[:-1], margin), piece.dtype) if held is None else held
        held = np.concatenate((before, piece), axis=-1)
        while held.shape[-1] >= size:
            yield held[..., :size], held[..., margin : margin + step]
            held = held[..., step:]
    while held is not None and held.shape[-1] > margin:
        window = held[..., :size]
        lacking = ((0, 0), (0, 0), (0, size - window.shape[-1]))
        yield np.pad(window, lacking), held[..., margin : margin + step]
        held = held[..., step:]
