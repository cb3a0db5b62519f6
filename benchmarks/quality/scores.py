"""How good a stem is, with torchmetrics.

* SDR as the Music Demixing Challenge has it, over the whole song and both channels (Y. Mitsufuji et al., "Music
  Demixing Challenge 2021", Frontiers in Signal Processing 1 (2022)): the ratio that torchmetrics calls SNR.
* SI-SDR: the same, with the true stem at the level that suits the estimate best (J. Le Roux et al., "SDR – half-baked
  or well done?", ICASSP 2019).
* SIR after BSS Eval (E. Vincent et al., "Performance measurement in blind audio source separation", IEEE Trans. Audio,
  Speech and Language Processing 14 (2006)), with filters of one tap: the estimate is projected onto the channels of the
  true stem, and onto those of all true stems; the first is the target, what the second has more is interference. The
  two channels of the estimate have projections of their own. What no stem accounts for, artefacts, is in neither.
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

#: What counts as silence, beside the mixture's energy: -100 dB.
_SILENCE = 1e-10
#: Less than this is not told apart from silence.
_NOTHING = 1e-12
#: Singular values below this, relative to the largest, are zero: two channels that are the same count once.
_RANK = 1e-9


def score(name: str, estimate: Samples, stems: Mapping[str, Samples], mixture: Samples) -> Scores:
    """``estimate`` against the true stem ``name``; all ``(samples, channels)`` and equally long."""
    energy = _energy(mixture)
    if _energy(stems[name]) <= _SILENCE * energy:
        return Scores(leak=10 * math.log10(max(_energy(estimate) / energy, _NOTHING)))
    truth, guess = _flat(stems[name]), _flat(estimate)
    sounding = [stem for stem in stems.values() if _energy(stem) > _SILENCE * energy]
    return Scores(
        sdr=float(signal_noise_ratio(guess, truth)),
        si_sdr=float(scale_invariant_signal_distortion_ratio(guess, truth)),
        sir=_sir(estimate, stems[name], sounding) if len(sounding) > 1 else None,
    )


def _sir(estimate: Samples, stem: Samples, stems: list[Samples]) -> float:
    target = _projected(estimate, stem)
    explained = _projected(estimate, np.concatenate(stems, axis=1))
    return float(signal_noise_ratio(_flat(explained), _flat(target)))


def _projected(estimate: Samples, channels: Samples) -> Matrix:
    """What linear combinations of ``channels`` can make of the estimate, ``(samples, channels)``."""
    span, guess = channels.astype(np.float64), estimate.astype(np.float64)
    weights: Matrix = np.linalg.pinv(span.T @ span, rcond=_RANK, hermitian=True) @ (span.T @ guess)
    return span @ weights


def _energy(samples: Samples) -> float:
    return float(np.sum(samples**2, dtype=np.float64))


def _flat(samples: Samples | Matrix) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(samples, np.float64).reshape(-1))
