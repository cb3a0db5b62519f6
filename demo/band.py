"""Synthesise a small band across the stereo field: drums, bass, a pad of chords and a plucked arpeggio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from demo.sound import (
    SAMPLE_RATE,
    Signal,
    add_at,
    band_noise,
    decay,
    frequency,
    harmonics,
    pan,
    reverb,
    samples,
)

BEATS = 4
"""Beats in a bar."""

_EIGHTHS = 2 * BEATS


@dataclass(frozen=True)
class Bar:
    """The notes that the band plays in one bar."""

    chords: Sequence[Sequence[int]]
    """MIDI notes, root first; all chords of a bar last equally long."""
    kicks: Sequence[float]
    """Beats of the kick drum. Snare and hi-hat play the same beats in every bar."""
    arpeggio: Sequence[int]
    """For each eighth, the index of the plucked note in the chord; higher indices continue in the next octave."""

    def chord_at(self, eighth: int) -> Sequence[int]:
        """Return the chord of an eighth of the bar."""
        return self.chords[eighth * len(self.chords) // _EIGHTHS]


def accompany(bars: Sequence[Bar], beat: float, length: int, rng: np.random.Generator, *, drums: float = 1.0) -> Signal:
    """Return the band alone, `(2, length)`, at an arbitrary level.

    `beat`: length of a beat, s. `drums`: a factor on the amplitude of the drums.
    """
    track = np.zeros((2, length))
    kick, snare, hat = (drums * pan(*drum) for drum in ((_kick(), 0.0), (_snare(rng), 0.1), (_hat(rng), 0.45)))

    def play(sound: Signal, at: float) -> None:
        add_at(track, samples(at), rng.uniform(0.85, 1.0) * sound)

    for index, bar in enumerate(bars):
        start = index * BEATS * beat
        for position in bar.kicks:
            play(0.9 * kick, start + position * beat)
        for position in (1, 3):
            play(0.8 * snare, start + position * beat)
        for position, chord in enumerate(bar.chords):
            span = BEATS * beat / len(bar.chords)
            play(_pad(chord, span), start + position * span)
        for eighth in range(_EIGHTHS):
            at = start + eighth * beat / 2
            chord, side = bar.chord_at(eighth), 0.75 if eighth % 2 else -0.75
            octave, note = divmod(bar.arpeggio[eighth], len(chord))
            play((0.8 if eighth % 2 else 1.0) * hat, at)
            play(pan(0.45 * _bass(chord[0] - 24, 0.45 * beat), -0.05), at)
            play(pan(0.3 * _pluck(chord[note] + 12 * octave), side), at)
    return reverb(rng, track, seconds=1.2, wet=0.04)


def _kick() -> Signal:
    """Return a sine that falls from 138 to 48 Hz."""
    time = np.arange(samples(0.35)) / SAMPLE_RATE
    turns = 48 * time + 90 / 30 * (1 - np.exp(-30 * time))
    return np.sin(2 * np.pi * turns) * decay(len(time), 0.35)


def _snare(rng: np.random.Generator) -> Signal:
    length = samples(0.25)
    shell = _tone(185, length, (0.5,)) * decay(length, 0.12)
    return shell + 0.22 * band_noise(rng, length, 1200, 9000) * decay(length, 0.22)


def _hat(rng: np.random.Generator) -> Signal:
    length = samples(0.09)
    return 0.12 * band_noise(rng, length, 6500, 14000) * decay(length, 0.08)


def _bass(note: int, seconds: float) -> Signal:
    length = samples(seconds)
    tone = _tone(frequency(note), length, (1.0, 0.5, 0.25, 0.12, 0.06))
    return _faded(tone, 0.008) * decay(length, 1.2)


def _pluck(note: int) -> Signal:
    length = samples(0.9)
    return _tone(frequency(note), length, (1.0, 0.6, 0.35, 0.2, 0.12, 0.07)) * decay(length, 0.9)


def _pad(chord: Sequence[int], seconds: float) -> Signal:
    """Return a wide chorus, `(2, samples)`: each note on both sides, a few cents apart."""
    pad = np.zeros((2, samples(seconds)))
    for index, note in enumerate(chord):
        for side in (-1, 1):
            hertz = frequency(note + 0.06 * side)
            tone = _tone(hertz, pad.shape[1], (0.12, 0.08, 0.05, 0.04, 0.03, 0.02, 0.015, 0.01))
            pad += pan(_faded(tone, 0.03), side * (0.65 + 0.1 * index))
    return pad


def _tone(hertz: float, length: int, amplitudes: Sequence[float]) -> Signal:
    return harmonics(hertz / SAMPLE_RATE * np.arange(length), amplitudes)


def _faded(tone: Signal, seconds: float) -> Signal:
    """Add linear ramps at both ends of `tone`, which prevent clicks."""
    ramp = np.arange(len(tone)) / samples(seconds)
    return tone * np.minimum(1, np.minimum(ramp, ramp[::-1]))
