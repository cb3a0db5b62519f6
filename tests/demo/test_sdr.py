"""Test the SDR: known values, its algebra, and rejected input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.sdr import sdr_db

NOISE = np.random.default_rng(0).standard_normal((2, 1000))


def test_error_of_a_tenth_of_the_amplitude_is_20_db() -> None:
    assert sdr_db(NOISE, 0.9 * NOISE) == pytest.approx(20)


def test_silence_scores_0_db() -> None:
    assert sdr_db(NOISE, np.zeros_like(NOISE)) == pytest.approx(0)


def test_perfect_estimate_is_infinite() -> None:
    assert math.isinf(sdr_db(NOISE, NOISE))


def test_energy_is_summed_over_channels_before_the_ratio() -> None:
    loud_left = NOISE * [[10.0], [1.0]]
    right_lost = loud_left * [[1.0], [0.0]]
    energy = np.sum(loud_left**2, axis=1)
    assert sdr_db(loud_left, right_lost) == pytest.approx(10 * np.log10(energy.sum() / energy[1]))


@given(scale=st.floats(1e-3, 1e3), error=st.floats(1e-3, 1.0))
def test_common_level_does_not_matter(scale: float, error: float) -> None:
    estimate = NOISE + error * NOISE[::-1]
    assert sdr_db(scale * NOISE, scale * estimate) == pytest.approx(sdr_db(NOISE, estimate))


def test_float32_audio_is_summed_in_double_precision() -> None:
    loud = np.full((2, 2_000_000), 1.0, np.float32)
    assert sdr_db(loud, 0.5 * loud) == pytest.approx(20 * np.log10(2), abs=1e-9)


@pytest.mark.parametrize("shape", [(2, 999), (1, 1000), (1000, 2), (2000,)])
def test_other_shapes_are_rejected(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="channels, samples"):
        sdr_db(NOISE, np.zeros(shape))


def test_silent_reference_is_rejected() -> None:
    with pytest.raises(ValueError, match="silent"):
        sdr_db(np.zeros((2, 10)), np.ones((2, 10)))
