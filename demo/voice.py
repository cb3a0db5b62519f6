"""Synthesise a singing voice: a glottal pulse train through the formants of vowels, and noise bursts for consonants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from demo.sound import SAMPLE_RATE, Signal, add_at, band_noise, frequency, harmonics, samples

VOWELS = {
    "a": ((650, 0), (1080, -6), (2650, -7), (2900, -8), (3250, -22)),
    "e": ((400, 0), (1700, -14), (2600, -12), (3200, -14), (3580, -20)),
    "i": ((290, 0), (1870, -15), (2800, -18), (3250, -20), (3540, -30)),
    "o": ((400, 0), (800, -10), (2600, -12), (2800, -12), (3000, -26)),
    "u": ((350, 0), (600, -20), (2700, -17), (2900, -14), (3300, -26)),
}
"""Centre in Hz and level in dB of each formant of a tenor (Csound manual, appendix "Formant Values")."""

_BANDWIDTHS_HZ = (80, 110, 160, 180, 200)


@dataclass(frozen=True)
class Burst:
    """Noise in a band; `level` is its RMS relative to a vowel's peak of 1."""

    low_hz: float
    high_hz: float
    seconds: float
    level: float


CONSONANTS = {
    "s": Burst(4500, 11000, 0.11, 0.1),
    "sh": Burst(2200, 6500, 0.1, 0.1),
    "f": Burst(1500, 9000, 0.08, 0.04),
    "t": Burst(2500, 9000, 0.025, 0.15),
    "k": Burst(1200, 3500, 0.03, 0.15),
}

_HOP = 256
"""Samples from one point of a contour (pitch, level, formants) to the next."""
_HARMONICS = 48
_TOP_HZ = 12_000.0


@dataclass(frozen=True)
class Syllable:
    """One sung note; times in seconds."""

    start: float
    duration: float
    midi_note: int
    consonant: str
    """One of `CONSONANTS`, or empty."""
    vowel: str


def sing(syllables: Sequence[Syllable], length: int, rng: np.random.Generator) -> Signal:
    """Return the voice alone, `(length,)`, with a peak of about 1. Syllables are in order and do not overlap."""
    time = np.arange(length // _HOP + 2) * _HOP / SAMPLE_RATE
    level, pitch = _level(syllables, time), _pitch(syllables, time)
    gains = level[:, None] * _formant_gains(syllables, time, pitch)
    turns = np.cumsum(_per_sample(pitch)) / SAMPLE_RATE
    voice = harmonics(turns, (_per_sample(gain) for gain in gains.T))[:length]
    voice /= np.max(np.abs(voice), initial=1e-9)
    voice += 0.015 * _per_sample(level)[:length] * band_noise(rng, length, 1500, 8000)
    for syllable in syllables:
        if syllable.consonant:
            add_at(voice, samples(syllable.start), _burst(rng, syllable.consonant))
    return voice


def _smooth(contour: Signal, seconds: float) -> Signal:
    """Return a moving average along the first axis, because a voice glides; the ends are extended."""
    width = max(round(seconds * SAMPLE_RATE / _HOP), 1)
    padded = np.concatenate([contour[:1].repeat(width // 2, 0), contour, contour[-1:].repeat(width, 0)])
    total = np.cumsum(np.concatenate([np.zeros_like(padded[:1]), padded]), axis=0)
    smooth: Signal = (total[width:] - total[:-width]) / width
    return smooth[: len(contour)]


def _current(syllables: Sequence[Syllable], time: Signal) -> npt.NDArray[np.intp]:
    """Return the index of the syllable that started last, at each time."""
    starts = [syllable.start for syllable in syllables]
    return np.maximum(np.searchsorted(starts, time, side="right") - 1, 0)


def _level(syllables: Sequence[Syllable], time: Signal) -> Signal:
    level = np.zeros_like(time)
    for syllable in syllables:
        lead = CONSONANTS[syllable.consonant].seconds if syllable.consonant else 0.0
        sounding = (time >= syllable.start + 0.8 * lead) & (time < syllable.start + syllable.duration)
        level[sounding] = np.linspace(1.0, 0.7, np.count_nonzero(sounding))
    return _smooth(level, 0.05)


def _pitch(syllables: Sequence[Syllable], time: Signal) -> Signal:
    """Return the fundamental in Hz: glides between notes, and a vibrato on the long ones."""
    current = _current(syllables, time)
    notes = _smooth(np.array([float(s.midi_note) for s in syllables])[current], 0.07)
    age = time - np.array([s.start for s in syllables])[current]
    depth = 0.3 * np.clip((age - 0.15) / 0.3, 0, 1)
    return frequency(notes + depth * np.sin(2 * np.pi * 5.6 * time))


def _formant_gains(syllables: Sequence[Syllable], time: Signal, pitch: Signal) -> Signal:
    """Return the amplitude of each harmonic under the resonances of the vowel, `(frames, harmonics)`."""
    current = _current(syllables, time)
    formants = _smooth(np.array([VOWELS[s.vowel] for s in syllables], np.float64)[current], 0.08)
    hertz = pitch[:, None] * np.arange(1, _HARMONICS + 1)
    gains = np.zeros_like(hertz)
    for formant, bandwidth in enumerate(_BANDWIDTHS_HZ):
        centre, decibels = formants[:, formant, :1], formants[:, formant, 1:]
        gains += 10 ** (decibels / 20) / np.sqrt(1 + ((hertz - centre) / (bandwidth / 2)) ** 2)
    tilted: Signal = gains * np.arange(1, _HARMONICS + 1) ** -0.3
    return tilted * (hertz < _TOP_HZ)


def _per_sample(contour: Signal) -> Signal:
    """Interpolate a contour linearly between its frames, to one value per sample."""
    steps = np.diff(contour)[:, None] * (np.arange(_HOP) / _HOP)
    return (contour[:-1, None] + steps).ravel()


def _burst(rng: np.random.Generator, consonant: str) -> Signal:
    noise = CONSONANTS[consonant]
    length = samples(noise.seconds)
    return noise.level * np.hanning(length) * band_noise(rng, length, noise.low_hz, noise.high_hz)
