"""The user's own songs: one folder each, with ``mixture.wav`` and a WAV file for every stem, as in MUSDB18-HQ."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.quality.songs import Piece
from demo.sound import SAMPLE_RATE
from pipeline.stem_name import normalise_stem_name
from processor.audio.wav import Samples

_MIXTURE = "mixture.wav"


def songs_in(folder: Path) -> list[Path]:
    """Return the folders of songs in ``folder``, sorted. Raises ValueError if there is none."""
    found = sorted(path.parent for path in folder.glob(f"*/{_MIXTURE}"))
    if not found:
        raise ValueError(f"{folder} has no folder with a {_MIXTURE}")
    return found


def read_songs(folders: list[Path]) -> Iterator[Piece]:
    """Yield the songs. Raises ValueError for stems that are missing or of another length, and what soundfile raises."""
    for folder in folders:
        mixture = read_stereo(folder / _MIXTURE)
        stems = {
            normalise_stem_name(path.stem): read_stereo(path)
            for path in sorted(folder.glob("*.wav"))
            if path.name != _MIXTURE
        }
        mismatched = [name for name, stem in stems.items() if len(stem) != len(mixture)]
        if not stems or mismatched:
            raise ValueError(f"{folder}: {', '.join(mismatched) or 'stems'} missing, or not as long as the mixture")
        yield Piece(folder.name, mixture, stems)


def read_stereo(path: Path) -> Samples:
    """Return samples, float32 ``(samples, 2)``; mono is copied to both channels.

    Raises ValueError for another rate than 44.1 kHz, or more channels.
    """
    read, rate = soundfile.read(path, dtype="float32", always_2d=True)
    if rate != SAMPLE_RATE or read.shape[1] > 2:
        raise ValueError(f"{path} is not mono or stereo at {SAMPLE_RATE} Hz")
    return np.repeat(read, 2, axis=1) if read.shape[1] == 1 else np.asarray(read, np.float32)
