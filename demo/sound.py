"""Building blocks of synthesis at 44.1 kHz, with NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 44_100

Signal = npt.NDArray[np.floating[Any]]
"""Samples of one channel `(samples,)`, or of two `(2, samples)`."""

_Notes = TypeVar("_Notes", float, Signal)


def samples(seconds: float) -> int:
    """Return the number of samples in `seconds`."""
    return round(seconds * SAMPLE_RATE)


def frequency(midi_notes: _Notes) -> _Notes:
    """Return the frequency in Hz in equal temperament; note 69 is A4 at 440 Hz."""
    hertz: _Notes = 440.0 * 2.0 ** ((midi_notes - 69) / 12)
    return hertz


def shaped(signal: Signal, response: Callable[[Signal], Signal]) -> Signal:
    """Apply a zero-phase filter, whose gain `response` returns for frequencies in Hz, to `signal`."""
    spectrum = np.fft.rfft(signal)
    hertz = np.fft.rfftfreq(len(signal), 1 / SAMPLE_RATE)
    return np.fft.irfft(spectrum * response(hertz), len(signal))


def band_noise(rng: np.random.Generator, length: int, low_hz: float, high_hz: float) -> Signal:
    """Return white noise between two corner frequencies, with slopes of 24 dB per octave and an RMS of 1."""

    def band(hertz: Signal) -> Signal:
        return 1 / np.sqrt((1 + (low_hz / np.maximum(hertz, 1)) ** 8) * (1 + (hertz / high_hz) ** 8))

    noise = shaped(rng.standard_normal(length), band)
    noise /= np.sqrt(np.mean(noise**2))
    return noise


def decay(length: int, seconds: float) -> Signal:
    """Return an exponential that falls by 60 dB in `seconds`."""
    envelope: Signal = np.exp(-np.log(1000) / (seconds * SAMPLE_RATE) * np.arange(length))
    return envelope


def harmonics(turns: Signal, gains: Iterable[Signal | float]) -> Signal:
    """Return the sum of `gains[n] sin(2 pi (n + 1) turns)`; powers of one phasor are cheaper than many sines."""
    phasor = np.exp(2j * np.pi * turns)
    rotating, total = np.ones_like(phasor), np.zeros(len(phasor))
    for gain in gains:
        rotating *= phasor
        total += gain * rotating.imag
    return total


def pan(mono: Signal, position: float) -> Signal:
    """Place `mono` between left (-1) and right (+1) at equal power, `(2, samples)`."""
    angle = (position + 1) * np.pi / 4
    return np.stack([np.cos(angle) * mono, np.sin(angle) * mono])


def add_at(track: Signal, start: int, sound: Signal) -> None:
    """Mix `sound` into `track` from sample `start`; samples beyond the end are dropped."""
    end = min(start + sound.shape[-1], track.shape[-1])
    if end > start:
        track[..., start:end] += sound[..., : end - start]


def reverb(rng: np.random.Generator, dry: Signal, seconds: float, wet: float) -> Signal:
    """Add a room to `dry`: a decaying noise tail for each channel, with `wet` of the dry energy."""
    size = 1 << (dry.shape[-1] + samples(seconds)).bit_length()
    tail = rng.standard_normal((*dry.shape[:-1], samples(seconds))) * decay(samples(seconds), seconds)
    tail *= np.sqrt(wet / np.sum(tail**2, axis=-1, keepdims=True))
    room = np.fft.irfft(np.fft.rfft(dry, size) * np.fft.rfft(tail, size), size)
    return dry + room[..., : dry.shape[-1]]
