"""Write the corpus, decode it in several ways, and compare the results."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import soundfile

from pipeline.cancellation import CancelToken
from processor.audio.track import open_track
from tests.processor.corpus.cases import SECONDS, Case
from tests.processor.source_files import Signal, lag, noise, write_pcm

#: The files that one call of the ``ffmpeg`` command writes or decodes.
_BATCH = 25
#: What the formats that libsndfile reads begin with, after a tag in front.
_LIBSNDFILE = (b"RIFF", b"RF64", b"riff", b"FORM", b"caff", b".snd", b"fLaC", b"OggS")
_HALF = math.sqrt(0.5)
#: ITU-R BS.775 for FL, FR, FC, LFE, BL and BR.
_5_1 = np.array([[1, 0], [0, 1], [_HALF, _HALF], [0, 0], [_HALF, 0], [0, _HALF]], np.float32)


@dataclass(frozen=True, slots=True)
class Decoded:
    """The samples ``(2, frames)`` at ``rate``, and the notes."""

    signal: Signal
    rate: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """How a decoded signal differs from another one."""

    frames: int
    """How much longer it is, samples."""
    delay: int
    """How much later it is, samples: the peak of the cross-correlation."""
    snr: float
    """The signal-to-noise ratio in the common part, without the delay, and without silence in place of sound, dB."""
    silence: int
    """The silence in place of sound, samples."""


def song(case: Case) -> Signal:
    """Return the song of a case in stereo ``(2, frames)``."""
    signal = noise(SECONDS, rate=case.rate, channels=case.channels)
    if case.channels == 1:
        signal = np.repeat(signal, 2, axis=0)
    elif case.channels == 6:
        signal = (signal.T @ _5_1).T
    silence = np.zeros((2, round(case.leading * case.rate)), np.float32)
    return np.concatenate([silence, *[signal] * case.repeats], axis=1)


def path_of(folder: Path, case: Case) -> Path:
    """Return the path of the file of ``case`` in the corpus."""
    return folder / "".join(letter if letter.isalnum() else "_" for letter in case.name)


def write_corpus(folder: Path, cases: Sequence[Case]) -> None:
    """Write the files of all cases. Cases with an edit need a case with the same arguments before them."""
    plain = [case for case in cases if case.edit is None]
    for rate, channels in sorted({(case.rate, case.channels) for case in plain}):
        source = folder / f"song-{rate}-{channels}.wav"
        write_pcm(source, noise(SECONDS, rate=rate, channels=channels), rate=rate, subtype="FLOAT", container="WAVEX")
        group = [case for case in plain if (case.rate, case.channels) == (rate, channels)]
        for batch in _batches(group):
            outputs = [
                part for case in batch for part in ("-map", "0:a", *case.arguments.split(), path_of(folder, case))
            ]
            _ffmpeg("-i", source, *outputs)
    by_arguments = {(case.arguments, case.rate, case.channels): case for case in plain}
    for case in cases:
        if case.edit is not None:
            original = path_of(folder, by_arguments[case.arguments, case.rate, case.channels])
            path_of(folder, case).write_bytes(case.edit(original.read_bytes()))


def decode_with_ffmpeg(folder: Path, cases: Sequence[Case]) -> dict[str, Signal]:
    """Return what the ``ffmpeg`` command decodes, ``(2, frames)``, by the name of the case."""
    signals = {}
    for batch in _batches(cases):
        raw = [folder / f"{number}.f32" for number in range(len(batch))]
        inputs = [part for case in batch for part in ("-i", path_of(folder, case))]
        outputs = [
            part
            for number, case in enumerate(batch)
            for part in ("-map", f"{number}:a:0", "-ac", min(case.channels, 2), "-f", "f32le", raw[number])
        ]
        _ffmpeg(*inputs, *outputs)
        for case, path in zip(batch, raw, strict=True):
            samples = np.fromfile(path, np.float32).reshape(-1, min(case.channels, 2)).T
            signals[case.name] = np.repeat(samples, 2, axis=0) if case.channels == 1 else samples
    return signals


def decode(path: Path) -> Decoded:
    """Decode a file as the service does, without the conversion to 44.1 kHz. Raises PermanentError."""
    with open_track(path) as track:
        blocks = list(track.blocks(60.0, CancelToken()))
        track.require_whole()
        return Decoded(np.concatenate(blocks).T, track.sample_rate, track.notes)


def decode_with_libsndfile(path: Path) -> Signal | None:
    """Return what libsndfile decodes, ``(2, frames)``; None if it does not read the file, or in more channels."""
    if not path.read_bytes()[:4].startswith(_LIBSNDFILE):
        return None
    try:
        samples = soundfile.read(path, dtype="float32", always_2d=True)[0].T
    except soundfile.LibsndfileError:
        return None
    if samples.shape[0] > 2:
        return None
    return np.repeat(samples, 2, axis=0) if len(samples) == 1 else samples


def difference(signal: Signal, reference: Signal) -> Difference:
    """Compare two signals ``(2, frames)``."""
    delay = lag(reference, signal)
    here, there = signal[:, max(delay, 0) :], reference[:, max(-delay, 0) :]
    frames = min(here.shape[1], there.shape[1])
    here, there = here[:, :frames], there[:, :frames]
    sound = here.any(axis=0)
    error = np.mean((here[:, sound] - there[:, sound]).astype(np.float64) ** 2)
    power = np.mean(there[:, sound].astype(np.float64) ** 2)
    snr = math.inf if error == 0 else 10 * math.log10(power / error)
    silence = int(np.count_nonzero(~sound & there.any(axis=0)))
    return Difference(signal.shape[1] - reference.shape[1], delay, snr, silence)


def _batches(cases: Sequence[Case]) -> Iterator[Sequence[Case]]:
    for start in range(0, len(cases), _BATCH):
        yield cases[start : start + _BATCH]


def _ffmpeg(*arguments: object) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-y", "-strict", "-2"]
    subprocess.run([*command, *map(str, arguments)], check=True, timeout=60)
