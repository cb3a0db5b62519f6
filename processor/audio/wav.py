"""Read and write the working files between the stages, in blocks: float32 WAV."""

from __future__ import annotations

import errno
import functools
import io
import os
import stat
import struct
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
#: RF64 is WAV of unlimited length. libsndfile's plain float WAV contains the time of day, but a song that is separated
#: twice must give the same bytes.
CONTAINER = "RF64"
#: The frames of one block: 2 MiB of float32 for two channels.
BLOCK_FRAMES = 1 << 18

#: The offset of the three sizes in a header: of the file but eight bytes, of the samples, and the number of frames.
_SIZES_AT, _SIZES = 20, struct.Struct("<QQQ")
#: The bytes of a stereo frame.
_STEREO_FRAME = 8

#: libsndfile's error code for a failed malloc.
_NO_MEMORY = 17


@dataclass(frozen=True, slots=True)
class Written:
    """The number of frames written to a file, and their peak."""

    frames: int
    peak: float
    """The largest absolute sample."""


class _WorkingFile(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file that is not synced to the disk when it is closed.

    After a power cut the job starts again. Files that must survive a power cut are synced by the stores.
    """

    def flush(self) -> None:
        """Do nothing. ``close`` calls it only to sync: libsndfile itself buffers no samples."""


class WavWriter:
    """Writes a file block by block; the file is complete once it is closed. A context manager."""

    def __init__(self, path: Path, channels: int, rate: int = SAMPLE_RATE) -> None:
        """``rate``: in Hz. Raises OSError."""
        self.path, self.channels = path, channels
        self._frames, self._peak = 0, 0.0
        with _system_errors():
            self._file = _WorkingFile(path, "w", rate, channels, subtype="FLOAT", format=CONTAINER)

    def write(self, block: Samples) -> float:
        """Append ``(frames, channels)`` and return their largest absolute sample, NaN if any is NaN. Raises OSError."""
        with _system_errors():
            self._file.write(block)
        peak = float(max(block.max(initial=0.0), -block.min(initial=0.0)))
        self._frames += len(block)
        self._peak = max(self._peak, peak)
        return peak

    @property
    def written(self) -> Written:
        """The frames and the peak of the file so far."""
        return Written(self._frames, self._peak)

    def close(self) -> None:
        """Complete the file. Raises OSError."""
        with _system_errors():
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def write_wav(path: Path, blocks: Iterable[Samples], channels: int, rate: int = SAMPLE_RATE) -> Written:
    """Write blocks ``(frames, channels)`` to a file; ``rate`` in Hz. Raises OSError."""
    with WavWriter(path, channels, rate) as file:
        for block in blocks:
            file.write(block)
    return file.written


def is_working_file(path: Path, frames: int) -> bool:
    """Return whether ``path`` is a stereo file as ``WavWriter`` writes it: a regular file with exactly its header.

    Raises OSError.
    """
    data = frames * _STEREO_FRAME
    header = bytearray(_empty_file())
    size = len(header) + data
    _SIZES.pack_into(header, _SIZES_AT, size - 8, data, frames)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return False
        raise
    with open(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        is_regular = stat.S_ISREG(about.st_mode) and about.st_nlink == 1
        return is_regular and about.st_size == size and file.read(len(header)) == header


@functools.cache
def _empty_file() -> bytes:
    with io.BytesIO() as file:
        soundfile.SoundFile(file, "w", SAMPLE_RATE, 2, subtype="FLOAT", format=CONTAINER).close()
        return file.getvalue()


def read_blocks(path: Path) -> Iterator[Samples]:
    """Yield the file's blocks ``(frames, channels)``."""
    with soundfile.SoundFile(path) as file:
        yield from file.blocks(blocksize=BLOCK_FRAMES, dtype="float32", always_2d=True)


@contextmanager
def _system_errors() -> Iterator[None]:
    try:
        yield
    except soundfile.LibsndfileError as error:
        if error.code == _NO_MEMORY:
            raise MemoryError(str(error)) from error
        # libsndfile does not report errno; in practice the cause is a full disk.
        raise OSError(errno.ENOSPC, "the disk is full") from error
