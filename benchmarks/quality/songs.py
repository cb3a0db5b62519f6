"""Songs for measurements: composed by ``demo.song``, in styles that are easier or harder to separate."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.quality.bells import ring
from demo.song import PEAK, Song, render_song
from demo.sound import SAMPLE_RATE, Signal, reverb, samples
from processor.audio.wav import Samples

VOCALS: Final = "vocals"
INSTRUMENTAL: Final = "instrumental"

#: Length of a song, s.
SECONDS: Final = 24.0
#: The demo model's constants were tuned on other seeds, see ``demo.centre_model``.
SEEDS: Final = (1, 2, 3, 4, 5)

_QUIET_PEAK = 0.05
_CLIPPED_BY_DB = 6.0
_DOUBLE_DELAY = 0.025
"""Delay between the two takes of a doubled voice, s."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A song with its true stems."""

    title: str
    """The title of the style, or of the song itself. Results with the same title are summarised together."""
    mixture: Samples
    """float32 ``(samples, 2)`` at 44.1 kHz; not the sum of the stems where it is clipped."""
    stems: Mapping[str, Samples]
    """By name, in the format of the mixture, including silent ones."""


@dataclass(frozen=True, slots=True)
class Style:
    """A style of songs, generated from seeds."""

    name: str
    title: str
    make: Callable[[int, float], Song]
    """Makes a song from the seed and the length in s."""
    clipped_by_db: float = 0.0


def pieces(styles: Sequence[Style], seeds: Sequence[int], seconds: float) -> Iterator[Piece]:
    """Yield a song of every style with every seed. The same arguments give the same samples."""
    for seed in seeds:
        for style in styles:
            yield _make_piece(style, style.make(seed, seconds))


def with_instrumental(stems: Mapping[str, Samples]) -> dict[str, Samples]:
    """Return the stems, with the sum of all but the vocals as ``instrumental`` if that is missing.

    This compares models with several instrumental stems to models with one.
    """
    rest = [samples for name, samples in stems.items() if name != VOCALS]
    if VOCALS not in stems or INSTRUMENTAL in stems or not rest:
        return dict(stems)
    return {**stems, INSTRUMENTAL: np.sum(rest, axis=0, dtype=np.float32)}


def _make_piece(style: Style, song: Song) -> Piece:
    gain = np.float32(10 ** (style.clipped_by_db / 20) / PEAK) if style.clipped_by_db else np.float32(1)
    stems = {VOCALS: gain * song.vocals.T, INSTRUMENTAL: gain * song.instrumental.T}
    return Piece(style.title, np.clip(gain * song.mixture.T, -1.0, 1.0), stems)


@functools.lru_cache(maxsize=1)
def _looping(seed: int, seconds: float) -> Song:
    """Return the demo's kind of song, from which many styles are derived."""
    return render_song(seed, seconds)


def _levelled(voice: Signal, band: Signal, peak: float = PEAK) -> Song:
    """Return a song of these stems ``(2, samples)``, scaled so that their sum has this peak."""
    gain = peak / np.max(np.abs(voice + band))
    return Song(SAMPLE_RATE, (gain * voice).astype(np.float32), (gain * band).astype(np.float32))


def _at_peak(peak: float) -> Callable[[int, float], Song]:
    def make(seed: int, seconds: float) -> Song:
        song = _looping(seed, seconds)
        return _levelled(song.vocals, song.instrumental, peak)

    return make


def _doubled(seed: int, seconds: float) -> Song:
    """Return a song with a delayed copy of the voice on the right: the voice is not in the centre."""
    song = _looping(seed, seconds)
    voice, late = song.vocals[0], np.zeros_like(song.vocals[0])
    late[samples(_DOUBLE_DELAY) :] = voice[: -samples(_DOUBLE_DELAY)]
    return _levelled(np.stack([voice, late]), song.instrumental)


def _band_in_mono(seed: int, seconds: float) -> Song:
    song = _looping(seed, seconds)
    return _levelled(song.vocals, np.broadcast_to(song.instrumental.mean(axis=0), song.instrumental.shape))


def _in_a_hall(seed: int, seconds: float) -> Song:
    """Return a song with as much energy in the reverberation as in the direct sound."""
    song, rng = _looping(seed, seconds), np.random.default_rng(seed)
    voice, band = (reverb(rng, stem, seconds=2.5, wet=1.0) for stem in (song.vocals, song.instrumental))
    return _levelled(voice, band)


def _ringing(seed: int, seconds: float) -> Song:
    song = _looping(seed, seconds)
    band = ring(seed, song.vocals.shape[1])
    return _levelled(song.vocals, np.sqrt(np.sum(song.instrumental**2) / np.sum(band**2)) * band)


def _a_cappella(seed: int, seconds: float) -> Song:
    voice = _looping(seed, seconds).vocals
    return _levelled(voice, np.zeros_like(voice))


def _instrumental_alone(seed: int, seconds: float) -> Song:
    band = _looping(seed, seconds).instrumental
    return _levelled(np.zeros_like(band), band)


STYLES: Final = (
    Style("demo", "voice in the centre, wide band that loops", _looping),
    Style("composed", "band that never repeats itself", lambda seed, s: render_song(seed, s, looping=False)),
    Style("panned", "voice panned by 0.4", lambda seed, s: render_song(seed, s, voice_pan=0.4)),
    Style("doubled", "voice doubled, left and right", _doubled),
    Style("mono", "band in mono", _band_in_mono),
    Style("drums", "drums three times as loud", lambda seed, s: render_song(seed, s, drums=3.0)),
    Style("hall", "dense reverb on everything", _in_a_hall),
    Style("ringing", "bells that ring for seconds, no drums", _ringing),
    Style("acappella", "a cappella", _a_cappella),
    Style("instrumental", "instrumental alone", _instrumental_alone),
    Style("full", "the first, at peak 1.0", _at_peak(1.0)),
    Style("half", "the first, at peak 0.5", _at_peak(0.5)),
    Style("quiet", "the first, at peak 0.05", _at_peak(_QUIET_PEAK)),
    Style("clipped", "the first, clipped by 6 dB", _looping, clipped_by_db=_CLIPPED_BY_DB),
)
