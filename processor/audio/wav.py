"""The working files between the stages: 44.1 kHz float32 WAV, read and written in blocks."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

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

#: libsndfile's own number for a failed malloc.
_NO_MEMORY = 17


@dataclass(frozen=True, slots=True)
class Written:
    """What went into a file."""

    frames: int
    peak: float
    """The largest absolute sample."""


class _WorkingFile(soundfile.SoundFile):  # type: ignore[misc]
    """One that is not waited for until it is on the disk when it is closed.

    A power cut ends the job that it belongs to, which begins again; what has to survive one, stores wait for.
    """

    def flush(self) -> None:
        """Called by ``close``, for nothing but the waiting: libsndfile itself holds no samples back."""


class WavWriter:
    """A file that grows block by block, and is whole once it is closed. A context manager."""

    def __init__(self, path: Path, channels: int) -> None:
        """Raises OSError."""
        self.path, self.channels = path, channels
        self._frames, self._peak = 0, 0.0
        with _system_errors():
            self._file = _WorkingFile(path, "w", SAMPLE_RATE, channels, subtype="FLOAT", format=CONTAINER)

    def write(self, block: Samples) -> float:
        """Append ``(frames, channels)``; the largest absolute sample of these, NaN if one is. Raises OSError."""
        with _system_errors():
            self._file.write(block)
        peak = float(max(block.max(initial=0.0), -block.min(initial=0.0)))
        self._frames += len(block)
        self._peak = max(self._peak, peak)
        return peak

    @property
    def written(self) -> Written:
        """What is in the file so far."""
        return Written(self._frames, self._peak)

    def close(self) -> None:
        """Complete the file. Raises OSError."""
        with _system_errors():
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def write_wav(path: Path, blocks: Iterable[Samples], channels: int) -> Written:
    """Write blocks ``(frames, channels)`` to a file. Raises OSError."""
    with WavWriter(path, channels) as file:
        for block in blocks:
            file.write(block)
    return file.written


def read_blocks(path: Path) -> Iterator[Samples]:
    """The file's blocks ``(frames, channels)``."""
    with soundfile.SoundFile(path) as file:
        yield from file.blocks(blocksize=BLOCK_FRAMES, dtype="float32", always_2d=True)


@contextmanager
def _system_errors() -> Iterator[None]:
    try:
        yield
    except soundfile.LibsndfileError as error:
        if error.code == _NO_MEMORY:
            raise MemoryError(str(error)) from error
        # libsndfile passes no errno on; a full disk is what it meets in practice.
        raise OSError(errno.ENOSPC, "the disk is full") from error
