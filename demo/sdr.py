"""Score a separation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def sdr_db(reference: npt.ArrayLike, estimate: npt.ArrayLike) -> float:
    """Return the signal-to-distortion ratio in dB of `estimate` to the true stem, both `(channels, samples)`.

    10 log10(sum ref^2 / sum (ref - est)^2) over all channels and samples of the song, as the Music Demixing
    Challenge defines it (Y. Mitsufuji et al., "Music Demixing Challenge 2021", Frontiers in Signal Processing
    1 (2022)). The result is infinite for a perfect estimate.

    Raises:
        ValueError: the shapes differ or are not `(channels, samples)`, or the reference is silent.
    """
    truth, guess = np.asarray(reference, np.float64), np.asarray(estimate, np.float64)
    if truth.ndim != 2 or truth.shape != guess.shape:
        raise ValueError(f"both must have the same shape (channels, samples), not {truth.shape} and {guess.shape}")
    signal, distortion = np.sum(truth**2), np.sum((truth - guess) ** 2)
    if not signal:
        raise ValueError("the SDR against a silent reference is undefined")
    return float(10 * np.log10(signal / distortion)) if distortion else float("inf")
