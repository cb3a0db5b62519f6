"""Measures of a sample-rate converter: passband, aliases and images, and the difference to a reference."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import soundfile
import soxr
from av import AudioFrame
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from pipeline.cancellation import CancelToken
from processor.audio.decode import decode
from processor.audio.resampler import Resampler
from processor.audio.wav import SAMPLE_RATE, Samples

#: The measured rates of sources, Hz.
RATES = (22_050, 32_000, 48_000, 96_000)
#: The end of the measured passband, as a part of the lower Nyquist frequency: 20 kHz at 44.1 kHz.
PASSBAND = 20_000 / 22_050
#: The length of a tone, s, and the part of it on both ends that is not evaluated.
_TONE_SECONDS, _EDGE = 0.5, 0.2
#: An odd number of frames, so that block boundaries are at all positions.
_BLOCK = 4_799

Converter = Callable[[Samples, int, int], Samples]
"""Converts ``(frames, channels)`` from the first to the second rate, Hz."""


def ours(samples: Samples, rate: int, target: int) -> Samples:
    """Convert in blocks, as the processor does."""
    resampler = Resampler(rate, target, samples.shape[1])
    blocks = [resampler.process(samples[at : at + _BLOCK]) for at in range(0, len(samples), _BLOCK)]
    return np.concatenate([*blocks, resampler.flush()])


def ffmpeg_default(samples: Samples, rate: int, target: int) -> Samples:
    """Convert with the default options of FFmpeg's libswresample."""
    resampler = AudioResampler(format="fltp", layout="stereo", rate=target)
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout="stereo")
    frame.sample_rate = rate
    frames = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([frame.to_ndarray() for frame in frames if frame is not None], axis=1).T.astype(np.float32)


def librosa_default(samples: Samples, rate: int, target: int) -> Samples:
    """Convert with librosa's default, ``soxr_hq``, with which audio-separator loads a song."""
    converted: Samples = librosa.resample(samples.T, orig_sr=rate, target_sr=target, res_type="soxr_hq").T
    return converted


def passband_ripple(rate: int, target: int, convert: Converter = ours) -> float:
    """Return the largest deviation of the gain from 1 up to ``PASSBAND``, dB."""
    nyquist = min(rate, target) / 2
    return max(abs(gain_at(part * nyquist, rate, target, convert)) for part in np.linspace(0.01, PASSBAND, 16))


def gain_at(hertz: float, rate: int, target: int, convert: Converter = ours) -> float:
    """Return the gain of a tone, dB."""
    tone, _ = _split(_tone(hertz, rate, target, convert), hertz, target)
    return _decibels(_rms(tone) / math.sqrt(0.125))


def alias_level(rate: int, target: int, convert: Converter = ours) -> float:
    """Return the highest level of what a tone of 0 dB leaves at other frequencies than its own, dB.

    These are aliases of tones above the target's Nyquist frequency, images of tones below it, and noise.
    """
    tones = np.linspace(0.05 * rate / 2, 0.99 * rate / 2, 16)
    if rate > target:  # and the octave's critical part: just above the target's Nyquist frequency
        tones = np.concatenate([tones, np.linspace(1.003 * target / 2, min(1.1 * target, 0.999 * rate) / 2, 8)])
    levels = []
    for hertz in tones:
        converted = _tone(hertz, rate, target, convert)
        rest = _split(converted, hertz, target)[1] if hertz < target / 2 else converted
        levels.append(_decibels(_rms(rest) / math.sqrt(0.125)))
    return max(levels)


def stream_snr(rate: int, target: int, convert: Converter = ours) -> float:
    """Return the ratio of noise of all frequencies to the difference from soxr's VHQ in float64, dB."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (3 * rate, 2)).astype(np.float32)
    return _snr(convert(noise, rate, target), soxr.resample(noise.astype(np.float64), rate, target, "VHQ"))


def song_snr(convert: Converter, seconds: float) -> float:
    """Return the ratio, dB, of a song, 48 kHz, to its difference from soxr's VHQ in float64.

    The song has notes with harmonics up to 24 kHz, noise, and tones at 22.5, 23 and 23.5 kHz.
    """
    song = _song(48_000, seconds)
    return _snr(convert(song, 48_000, SAMPLE_RATE), soxr.resample(song.astype(np.float64), 48_000, SAMPLE_RATE, "VHQ"))


def decoded_song_snr(folder: Path, seconds: float) -> float:
    """Return the same for the song as a float WAV that is decoded in ``folder``, as the processor decodes a source."""
    song = _song(48_000, seconds)
    path, work = folder / "song.wav", folder / "work"
    work.mkdir()
    soundfile.write(path, song, 48_000, subtype="FLOAT")
    mixture = decode(path, work, max_seconds=2 * seconds, cancel=CancelToken())
    decoded = soundfile.read(mixture.path)[0] * mixture.peak
    return _snr(decoded, soxr.resample(song.astype(np.float64), 48_000, SAMPLE_RATE, "VHQ"))


def milliseconds(rate: int, target: int, convert: Converter = ours, seconds: float = 180.0) -> float:
    """Return the time, ms, for the conversion of a stereo song: the best of three."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (round(seconds * rate), 2)).astype(np.float32)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        convert(noise, rate, target)
        times.append(time.perf_counter() - started)
    return 1000 * min(times)


def _song(rate: int, seconds: float) -> Samples:
    random, clock = np.random.default_rng(1), np.arange(round(rate * 0.5)) / rate
    notes = []
    for _ in range(round(2 * seconds)):
        hertz = 55 * 2 ** (random.integers(0, 48) / 12)
        harmonics = np.arange(1, int(rate / 2 / hertz) + 1)
        phases = random.uniform(0, 2 * np.pi, (len(harmonics), 1))
        note = (np.sin(2 * np.pi * hertz * harmonics[:, None] * clock + phases) / harmonics[:, None]).sum(0)
        left, right = random.uniform(0.1, 0.3, 2)
        notes.append(np.outer(note * np.exp(-4 * clock), (left, right)))
    song = np.concatenate(notes)
    song += random.normal(0, 0.01, song.shape)
    clock = np.arange(len(song))[:, None] / rate
    song += sum(0.05 * np.sin(2 * np.pi * hertz * clock) for hertz in (22_500, 23_000, 23_500))
    return song.astype(np.float32)


def _tone(hertz: float, rate: int, target: int, convert: Converter) -> NDArray[np.float64]:
    """Return the middle of a converted tone with an amplitude of 0.5."""
    samples = (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(_TONE_SECONDS * rate)) / rate)).astype(np.float32)
    converted = convert(np.stack([samples, samples], axis=1), rate, target)[:, 0].astype(np.float64)
    edge = round(_EDGE * len(converted))
    return converted[edge:-edge]


def _split(samples: NDArray[np.float64], hertz: float, rate: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the tone in ``samples``, by least squares, and the rest."""
    phase = 2 * np.pi * hertz * np.arange(len(samples)) / rate
    basis = np.stack([np.sin(phase), np.cos(phase)], axis=1)
    tone = basis @ np.linalg.lstsq(basis, samples, rcond=None)[0]
    return tone, samples - tone


def _snr(samples: NDArray[np.floating], reference: NDArray[np.float64]) -> float:
    frames = min(len(samples), len(reference))
    return _decibels(_rms(reference[:frames]) / _rms(samples[:frames] - reference[:frames]))


def _rms(samples: NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def _decibels(ratio: float) -> float:
    return 20 * math.log10(max(ratio, 1e-12))
