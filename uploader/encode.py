"""Encodes the float32 WAV files of the hand-off as the client's files: 16-bit PCM in WAV or FLAC.

Quantisation: n = clip(round(2¹⁵ · g · x), −2¹⁵, 2¹⁵ − 1), rounding half to even, without dither. It inverts the usual
decoding x = n / 2¹⁵, so unchanged 16-bit samples are reproduced exactly. The error of any other sample is at most half
a step, or up to one step above 1 − 2⁻¹⁶, since 16 bits cannot represent +1. The same input gives the same bytes.

Separated stems can exceed full scale although their mixture does not. Clipping would be audible, and attenuating one
stem alone would break the property that the stems sum to the mixture. So ``common_gain`` attenuates all stems of a job
equally, by the minimum that the loudest one needs: they then sum to the equally attenuated mixture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from pipeline.errors import ErrorCode, InfrastructureError, PermanentError
from pipeline.files import file_sha256
from pipeline.messages import OutputFormat

#: Frames in memory at a time: 1 MiB of float64 for two channels.
BLOCK_FRAMES = 65_536

CONTENT_TYPES = {OutputFormat.WAV: "audio/wav", OutputFormat.FLAC: "audio/flac"}

_SCALE = 2**15
_FULL_SCALE = (_SCALE - 1) / _SCALE
#: Maximum data size of a WAV file, bytes: its sizes are 32-bit, and the header needs some room.
_MAX_WAV_BYTES = 2**32 - 4096
#: libsndfile's SF_ERR_SYSTEM: the operating system reported an error.
_SYSTEM_ERROR = 2


@dataclass(frozen=True, slots=True)
class EncodedFile:
    """An encoded stem on disk."""

    bytes: int
    sha256: str


def common_gain(peaks: Iterable[float]) -> float:
    """Return the gain, at most 1, with which no stem of these peaks (1.0 is full scale) clips."""
    loudest = max(peaks, default=0.0)
    return _FULL_SCALE / loudest if loudest > 1.0 else 1.0


def gain_note(gain: float) -> str:
    """Describe a gain below 1 for the result's ``degraded`` entries."""
    return f"gain {20 * math.log10(gain):.2f} dB on every stem, so that none clips"


def encode(source: Path, target: Path, output_format: OutputFormat, gain: float = 1.0) -> EncodedFile:
    """Multiply the float32 WAV ``source`` by ``gain`` and write it to ``target``, in constant memory.

    Sample rate, channels and number of frames stay the same. Raises PermanentError for a source that is not audio, is
    empty, holds samples that are not numbers or does not fit the format, and InfrastructureError if the target cannot
    be written.
    """
    with _open_source(source) as reader, _open_target(target, reader, output_format) as writer:
        for block in _read_blocks(reader):
            # In float64 the product is exact enough to round each sample once.
            scaled = block.astype(np.float64) * (gain * _SCALE)
            if not np.isfinite(scaled).all():
                raise PermanentError(
                    "the separated stem holds samples that are not numbers", code=ErrorCode.SEPARATION_FAILED
                )
            writer.write(np.rint(scaled).clip(-_SCALE, _SCALE - 1).astype(np.int16))
        frames = reader.frames
    # On closing a FLAC file, libsndfile writes the last frames and does not report a full disk.
    try:
        complete = soundfile.info(target).frames == frames
    except soundfile.LibsndfileError as error:
        raise _unwritable() from error
    if not complete:
        raise _unwritable()
    return EncodedFile(target.stat().st_size, file_sha256(target))


def container_format(output_format: OutputFormat, data_bytes: int) -> str:
    """Return libsndfile's name of the file format: RF64 (EBU Tech 3306) for a WAV too long for 32-bit sizes."""
    if output_format is OutputFormat.WAV and data_bytes > _MAX_WAV_BYTES:
        return "RF64"
    return output_format.value.upper()


@contextmanager
def _open_source(source: Path) -> Iterator[soundfile.SoundFile]:
    try:
        reader = soundfile.SoundFile(source)
    except soundfile.LibsndfileError as error:
        raise _unreadable() from error
    with reader:
        if reader.frames == 0:
            raise PermanentError("the separated stem is empty", code=ErrorCode.SEPARATION_FAILED)
        yield reader


@contextmanager
def _open_target(target: Path, like: soundfile.SoundFile, output_format: OutputFormat) -> Iterator[soundfile.SoundFile]:
    file_format = container_format(output_format, like.frames * like.channels * 2)
    try:
        with soundfile.SoundFile(target, "w", like.samplerate, like.channels, "PCM_16", format=file_format) as writer:
            yield writer
    except soundfile.LibsndfileError as error:
        if error.code == _SYSTEM_ERROR:
            raise _unwritable() from error
        raise PermanentError(
            f"the separated stem does not fit into a {output_format.value} file", code=ErrorCode.SEPARATION_FAILED
        ) from error


def _read_blocks(reader: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """Yield float32 blocks of shape ``(frames, channels)``."""
    while True:
        try:
            block = reader.read(BLOCK_FRAMES, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise _unreadable() from error
        if not len(block):
            return
        yield block


def _unreadable() -> PermanentError:
    return PermanentError("the separated stem is not readable audio", code=ErrorCode.SEPARATION_FAILED)


def _unwritable() -> InfrastructureError:
    # libsndfile reports no errno; in practice the cause is a full disk.
    return InfrastructureError("an encoded stem cannot be written: is the disk full?", code=ErrorCode.DISK_FULL)
