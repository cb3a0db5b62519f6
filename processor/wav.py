"""The working files between the stages: 44.1 kHz float32 WAV, read and written in blocks."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

Samples = NDArray[np.float32]

#: The rate of every UVR model, Hz.
SAMPLE_RATE = 44_100
#: RF64 is WAV for any length, and libsndfile's plain float WAV has the time of day in it: a song that is separated
#: twice must give the same bytes.
CONTAINER = "RF64"
#: Frames that are in memory at once: 2 MiB of float32 for two channels.
BLOCK_FRAMES = 1 << 18


@dataclass(frozen=True, slots=True)
class Written:
    """What went into a file."""

    frames: int
    peak: float
    """The largest absolute sample."""


def write_wav(path: Path, blocks: Iterable[Samples], channels: int) -> Written:
    """Write blocks ``(frames, channels)`` to a file. Raises OSError."""
    frames, peak = 0, 0.0
    with _writer(path, channels) as file:
        for block in blocks:
            with _system_errors():
                file.write(block)
            frames += len(block)
            peak = max(peak, float(np.abs(block).max(initial=0.0)))
    return Written(frames, peak)


def read_blocks(path: Path) -> Iterator[Samples]:
    """The file's blocks ``(frames, channels)``."""
    with soundfile.SoundFile(path) as file:
        yield from file.blocks(blocksize=BLOCK_FRAMES, dtype="float32", always_2d=True)


@contextmanager
def _writer(path: Path, channels: int) -> Iterator[soundfile.SoundFile]:
    with _system_errors():
        file = soundfile.SoundFile(path, "w", SAMPLE_RATE, channels, subtype="FLOAT", format=CONTAINER)
    try:
        yield file
    finally:
        with _system_errors():
            file.close()


@contextmanager
def _system_errors() -> Iterator[None]:
    try:
        yield
    except soundfile.LibsndfileError as error:
        # libsndfile passes no errno on; a full disk is what it meets in practice.
        raise OSError(errno.ENOSPC, "the disk is full") from error
