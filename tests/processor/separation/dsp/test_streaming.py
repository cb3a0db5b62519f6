"""Streamed functions return the same for any division of the sequence into pieces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from processor.separation.dsp.streaming import Array, StreamAligner, StreamingTransform

pieces = st.lists(st.integers(0, 40), min_size=1, max_size=12)


@dataclass(frozen=True)
class Streamed:
    function: Callable[[Array], Array]
    period: tuple[int, int]
    reach: int


def smoothed(wave: Array) -> Array:
    """Combine each sample with seven neighbours on both sides. The ends are reflected, unlike the middle."""
    width = min(7, max(0, wave.shape[-1] - 1))
    padded = np.pad(wave, ((0, 0), (width, width)), mode="reflect") if wave.size else wave
    return np.stack([np.convolve(row, np.arange(1, 2 * width + 2), "valid") for row in padded]) if wave.size else wave


def decimated(wave: Array) -> Array:
    return smoothed(wave)[:, ::4]


def upsampled(wave: Array) -> Array:
    return smoothed(np.repeat(wave, 2, axis=-1))


FUNCTIONS = [Streamed(smoothed, (1, 1), 7), Streamed(decimated, (4, 1), 2), Streamed(upsampled, (1, 2), 4)]


def sequence(length: int) -> Array:
    return np.random.default_rng(length).integers(-99, 99, (2, length)).astype(np.float64)


def split(whole: Array, sizes: list[int]) -> list[Array]:
    return np.split(whole, np.cumsum(sizes)[:-1], axis=-1)


@given(sizes=pieces, streamed=st.sampled_from(FUNCTIONS))
def test_output_does_not_depend_on_the_pieces(sizes: list[int], streamed: Streamed) -> None:
    whole = sequence(sum(sizes))
    transform = StreamingTransform(streamed.function, streamed.period, streamed.reach)
    parts = split(whole, sizes)
    output = [transform.push(part) for part in parts[:-1]]
    output.append(transform.push(parts[-1], last=True))
    np.testing.assert_array_equal(np.concatenate(output, axis=-1), streamed.function(whole))


@given(count=st.integers(1, 60))
def test_buffer_does_not_grow(count: int) -> None:
    lengths = []

    def recorded(wave: Array) -> Array:
        lengths.append(wave.shape[-1])
        return smoothed(wave)

    transform = StreamingTransform(recorded, (1, 1), 7)
    for _ in range(count):
        transform.push(sequence(20))
    assert max(lengths) <= 20 + 2 * 7


@given(sizes=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1))
def test_aligner_returns_the_common_part(sizes: list[tuple[int, int]]) -> None:
    wholes = [sequence(sum(counts)) for counts in zip(*sizes, strict=True)]
    parts = [split(whole, list(counts)) for whole, counts in zip(wholes, zip(*sizes, strict=True), strict=True)]
    aligner = StreamAligner()
    rows = [aligner.push(both) for both in zip(*parts, strict=True)]
    common = min(whole.shape[-1] for whole in wholes)
    for whole, given_parts in zip(wholes, zip(*rows, strict=True), strict=True):
        np.testing.assert_array_equal(np.concatenate(given_parts, axis=-1), whole[:, :common])
