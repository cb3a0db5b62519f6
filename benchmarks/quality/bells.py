"""A band of bells: overlapping decays, spread over the stereo field, without a beat."""

from __future__ import annotations

from typing import Final

import numpy as np

from demo.sound import SAMPLE_RATE, Signal, add_at, decay, frequency, pan, samples

#: Partials of a tubular bell over its strike note, with their amplitudes. Higher partials decay faster.
_PARTIALS: Final = ((0.5, 0.4), (1.0, 1.0), (1.51, 0.5), (2.0, 0.6), (2.74, 0.25), (3.76, 0.15), (5.0, 0.1))
#: Time in which the strike note falls by 60 dB, s.
_RING: Final = 8.0
_INTERVALS: Final = (0.5, 0.75, 1.0, 1.5)
"""Times from one strike to the next, s."""
_SCALE: Final = (0, 3, 5, 7, 10)


def ring(seed: int, length: int) -> Signal:
    """Return the band, ``(2, length)``, at an arbitrary level. The same seed gives the same samples."""
    rng = np.random.default_rng(seed)
    track = np.zeros((2, length))
    tonic, start = int(rng.integers(48, 60)), 0.0
    while samples(start) < length:
        octave, step = divmod(int(rng.integers(0, 3 * len(_SCALE))), len(_SCALE))
        bell = rng.uniform(0.5, 1.0) * _bell(tonic + 12 * octave + _SCALE[step])
        add_at(track, samples(start), pan(bell, rng.uniform(-0.8, 0.8)))
        start += float(rng.choice(_INTERVALS))
    return track


def _bell(note: int) -> Signal:
    time = np.arange(samples(_RING)) / SAMPLE_RATE
    sound = np.zeros_like(time)
    for ratio, amplitude in _PARTIALS:
        partial = amplitude * np.sin(2 * np.pi * ratio * frequency(float(note)) * time)
        sound += partial * decay(len(time), _RING / max(ratio, 1.0))
    return sound
