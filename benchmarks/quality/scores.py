"""Quality measures of a stem, with torchmetrics.

* SDR as in the Music Demixing Challenge, over the whole song and both channels (Y. Mitsufuji et al., "Music
  Demixing Challenge 2021", Frontiers in Signal Processing 1 (2022)): the ratio that torchmetrics calls SNR.
* SI-SDR: the same, with the true stem scaled to fit the estimate best (J. Le Roux et al., "SDR – half-baked
  or well done?", ICASSP 2019).
* SIR after BSS Eval (E. Vincent et al., "Performance measurement in blind audio source separation", IEEE Trans. Audio,
  Speech and Language Processing 14 (2006)), with filters of one tap: the estimate is projected onto the channels of the
  true stem, and onto those of all true stems. The first is the target, the difference is interference. Each channel of
  the estimate is projected separately. Artefacts, which no stem explains, are in neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio, signal_noise_ratio

from benchmarks.quality.results import Scores
from processor.audio.wav import Samples

Matrix = NDArray[np.float64]

#: Stems below this share of the mixture's energy count as silence: -100 dB.
_SILENCE = 1e-10
#: Lower limit of a leak's share of the mixture's energy: -120 dB.
_MIN_LEAK = 1e-12
#: Singular values below this, relative to the largest, count as zero, so that two equal channels count once.
_RANK = 1e-9


def score(name: str, estimate: Samples, stems: Mapping[str, Samples], mixture: Samples) -> Scores:
    """Score ``estimate`` against the true stem ``name``. All are ``(samples, channels)`` of equal length."""
    energy = _energy(mixture)
    if _energy(stems[name]) <= _SILENCE * energy:
        return Scores(leak=10 * math.log10(max(_energy(estimate) / energy, _MIN_LEAK)))
    truth, guess = _flat(stems[name]), _flat(estimate)
    audible = [stem for stem in stems.values() if _energy(stem) > _SILENCE * energy]
    return Scores(
        sdr=float(signal_noise_ratio(guess, truth)),
        si_sdr=float(scale_invariant_signal_distortion_ratio(guess, truth)),
        sir=_sir(estimate, stems[name], audible) if len(audible) > 1 else None,
    )


def _sir(estimate: Samples, stem: Samples, stems: list[Samples]) -> float:
    target = _projected(estimate, stem)
    explained = _projected(estimate, np.concatenate(stems, axis=1))
    return float(signal_noise_ratio(_flat(explained), _flat(target)))


def _projected(estimate: Samples, channels: Samples) -> Matrix:
    """Return the projection of the estimate onto ``channels``, ``(samples, channels)``."""
    span, guess = channels.astype(np.float64), estimate.astype(np.float64)
    weights: Matrix = np.linalg.pinv(span.T @ span, rcond=_RANK, hermitian=True) @ (span.T @ guess)
    return span @ weights


def _energy(samples: Samples) -> float:
    return float(np.sum(samples**2, dtype=np.float64))


def _flat(samples: Samples | Matrix) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(samples, np.float64).reshape(-1))
