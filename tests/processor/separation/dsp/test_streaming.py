"""Functions of whole sequences, given them in pieces: the pieces make no difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from processor.separation.dsp.streaming import Array, StreamAligner, StreamingTransform

pieces = st.lists(st.integers(0, 40), min_size=1, max_size=12)


@dataclass(frozen=True)
class Way:
    function: Callable[[Array], Array]
    period: tuple[int, int]
    reach: int


def smoothed(wave: Array) -> Array:
    """Each with its seven neighbours to both sides; the ends are mirrored, which makes them unlike the middle."""
    width = min(7, max(0, wave.shape[-1] - 1))
    padded = np.pad(wave, ((0, 0), (width, width)), mode="reflect") if wave.size else wave
    return np.stack([np.convolve(row, np.arange(1, 2 * width + 2), "valid") for row in padded]) if wave.size else wave


def thinned(wave: Array) -> Array:
    return smoothed(wave)[:, ::4]


def doubled(wave: Array) -> Array:
    return smoothed(np.repeat(wave, 2, axis=-1))


WAYS = [Way(smoothed, (1, 1), 7), Way(thinned, (4, 1), 2), Way(doubled, (1, 2), 4)]


def sequence(length: int) -> Array:
    return np.random.default_rng(length).integers(-99, 99, (2, length)).astype(np.float64)


def cut(whole: Array, sizes: list[int]) -> list[Array]:
    return np.split(whole, np.cumsum(sizes)[:-1], axis=-1)


@given(sizes=pieces, way=st.sampled_from(WAYS))
def test_the_pieces_make_no_difference(sizes: list[int], way: Way) -> None:
    whole = sequence(sum(sizes))
    blockwise = StreamingTransform(way.function, way.period, way.reach)
    parts = cut(whole, sizes)
    output = [blockwise.push(part) for part in parts[:-1]]
    output.append(blockwise.push(parts[-1], last=True))
    np.testing.assert_array_equal(np.concatenate(output, axis=-1), way.function(whole))


@given(count=st.integers(1, 60))
def test_what_is_held_does_not_grow(count: int) -> None:
    lengths = []

    def remembered(wave: Array) -> Array:
        lengths.append(wave.shape[-1])
        return smoothed(wave)

    blockwise = StreamingTransform(remembered, (1, 1), 7)
    for _ in range(count):
        blockwise.push(sequence(20))
    assert max(lengths) <= 20 + 2 * 7


@given(sizes=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1))
def test_side_by_side(sizes: list[tuple[int, int]]) -> None:
    wholes = [sequence(sum(counts)) for counts in zip(*sizes, strict=True)]
    parts = [cut(whole, list(counts)) for whole, counts in zip(wholes, zip(*sizes, strict=True), strict=True)]
    together = StreamAligner()
    rows = [together.push(both) for both in zip(*parts, strict=True)]
    common = min(whole.shape[-1] for whole in wholes)
    for whole, given_parts in zip(wholes, zip(*rows, strict=True), strict=True):
        np.testing.assert_array_equal(np.concatenate(given_parts, axis=-1), whole[:, :common])
