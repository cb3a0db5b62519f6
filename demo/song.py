"""Compose and synthesise a song with known stems, a voice and a band, from a seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from demo.band import BEATS, Bar, accompany
from demo.sound import SAMPLE_RATE, Signal, pan, reverb, samples
from demo.voice import CONSONANTS, VOWELS, Syllable, sing

DEFAULT_SEED = 7
DEFAULT_SECONDS = 24.0

PEAK = 0.9
"""Peak amplitude of the mixture."""
VOICE_TO_BAND_DB = -2.0
"""Energy of the voice relative to the band: the SDR of the mixture itself as an estimate of the voice."""

_FADE_SECONDS = 0.4
_SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10))
_PROGRESSIONS = ((0, 4, 5, 3), (5, 3, 0, 4), (0, 5, 3, 4), (0, 2, 5, 3))
_RHYTHMS = (
    ((0, 1), (1, 0.5), (1.5, 0.5), (2, 1.5), (4, 1), (5, 2)),
    ((0.5, 0.5), (1, 1), (2, 1), (3, 0.5), (3.5, 1.5), (5.5, 1.5)),
    ((0, 1.5), (1.5, 1), (2.5, 0.5), (3, 1), (4, 2.5)),
    ((0.5, 0.5), (1, 0.5), (1.5, 0.5), (2, 1), (3, 1), (4, 0.5), (4.5, 2)),
)
"""Sung phrases of two bars: start and length of each syllable in beats, and a rest for a breath."""


@dataclass(frozen=True)
class Song:
    """True stems, float32 `(2, samples)` each; they sum to the mixture."""

    sample_rate: int
    vocals: npt.NDArray[np.float32]
    instrumental: npt.NDArray[np.float32]

    @property
    def mixture(self) -> npt.NDArray[np.float32]:
        """The sum of the stems, `(2, samples)`."""
        return self.vocals + self.instrumental


@dataclass(frozen=True)
class SongFiles:
    """The files of a song."""

    mixture: Path
    vocals: Path
    instrumental: Path


@dataclass(frozen=True)
class _Key:
    tonic: int
    scale: tuple[int, ...]

    def note(self, degree: int) -> int:
        """Return the MIDI note of a degree of the scale; 0 is the tonic, other octaves continue the count."""
        octave, step = divmod(degree, len(self.scale))
        return self.tonic + 12 * octave + self.scale[step]


def render_song(
    seed: int = DEFAULT_SEED,
    seconds: float = DEFAULT_SECONDS,
    *,
    voice_pan: float = 0.0,
    looping: bool = True,
    drums: float = 1.0,
) -> Song:
    """Compose and synthesise a song; the same arguments give the same samples.

    `voice_pan` (-1 left to 1 right), `looping=False` (new chords and figures in each bar) and `drums` (a factor on
    their amplitude) produce songs that suit the demo model less, for measurements of its limits.

    Raises:
        ValueError: the song would be shorter than one second, so that the voice might not have started.
    """
    if seconds < 1:
        raise ValueError(f"a song lasts at least one second, not {seconds}")
    rng = np.random.default_rng(seed)
    beat = 60 / rng.integers(112, 126)
    key = _Key(int(rng.integers(57, 64)), _SCALES[rng.integers(len(_SCALES))])
    bars = math.ceil(seconds / (BEATS * beat))
    length = samples(seconds)
    band = accompany(_compose_band(rng, bars, key, looping), beat, length, rng, drums=drums)
    voice = sing(_compose_melody(rng, bars, beat, key), length, rng)
    return _mix(reverb(rng, pan(voice, voice_pan), seconds=0.9, wet=0.03), band)


def write_song(song: Song, directory: Path) -> SongFiles:
    """Write the mixture as FLAC and the true stems as WAV, all with 16 bits, into `directory`, which is created."""
    directory.mkdir(parents=True, exist_ok=True)
    files = SongFiles(directory / "mixture.flac", directory / "vocals.wav", directory / "instrumental.wav")
    soundfile.write(files.mixture, song.mixture.T, song.sample_rate, subtype="PCM_16")
    soundfile.write(files.vocals, song.vocals.T, song.sample_rate, subtype="PCM_16")
    soundfile.write(files.instrumental, song.instrumental.T, song.sample_rate, subtype="PCM_16")
    return files


def _compose_band(rng: np.random.Generator, bars: int, key: _Key, looping: bool) -> list[Bar]:
    roots = _PROGRESSIONS[rng.integers(len(_PROGRESSIONS))]
    loop = [_compose_bar(rng, key, roots[:2]), _compose_bar(rng, key, roots[2:])]
    if looping:
        return [loop[bar % len(loop)] for bar in range(bars)]
    return [_compose_bar(rng, key, rng.integers(0, 7, 2).tolist()) for _ in range(bars)]


def _compose_bar(rng: np.random.Generator, key: _Key, roots: Sequence[int]) -> Bar:
    triads = [[key.note(root + third) for third in (0, 2, 4)] for root in roots]
    offbeat = rng.choice((1.5, 2.5, 3.5))
    return Bar(triads, kicks=(0.0, 2.0, float(offbeat)), arpeggio=rng.integers(0, 6, 2 * BEATS).tolist())


def _compose_melody(rng: np.random.Generator, bars: int, beat: float, key: _Key) -> list[Syllable]:
    """Compose a phrase for every two bars, whose notes move along the scale in small steps."""
    syllables: list[Syllable] = []
    degree = int(rng.integers(2, 6))
    for bar in range(0, bars, 2):
        for position, beats in _RHYTHMS[rng.integers(len(_RHYTHMS))]:
            degree = int(np.clip(degree + rng.choice((-2, -1, -1, 0, 1, 1, 2)), -2, 9))
            consonant, vowel = str(rng.choice(["", *CONSONANTS])), str(rng.choice(list(VOWELS)))
            start = (bar * BEATS + position) * beat
            syllables.append(Syllable(start, 0.92 * beats * beat, key.note(degree), consonant, vowel))
    return syllables


def _mix(voice: Signal, band: Signal) -> Song:
    fade = np.minimum(1, np.arange(band.shape[-1])[::-1] / samples(_FADE_SECONDS))
    voice, band = fade * voice, fade * band
    voice *= np.sqrt(10 ** (VOICE_TO_BAND_DB / 10) * np.sum(band**2) / np.sum(voice**2))
    gain = PEAK / np.max(np.abs(voice + band))
    return Song(SAMPLE_RATE, (gain * voice).astype(np.float32), (gain * band).astype(np.float32))
