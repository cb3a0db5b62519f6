"""From the hand-off's float32 WAV to the file that the client gets: 16-bit PCM in WAV or FLAC.

Quantisation: n = clip(round(2¹⁵ · g · x), −2¹⁵, 2¹⁵ − 1), rounding half to even, without dither. It inverts the usual
decoding x = n / 2¹⁵, so a stem that came from 16-bit samples and was not changed gives the same samples again, and the
error of any other is at most half a step; above 1 − 2⁻¹⁶, since 16 bits have no +1, up to one. The same input gives
the same bytes.

Separated stems can exceed full scale although their mixture does not. Clipping them would be heard, and turning down
one alone would break the property that the stems sum to the mixture. So ``common_gain`` turns down all stems of a job
alike, by no more than the loudest needs: they then sum to the equally turned down mixture.
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

#: Frames that are in memory at once: 1 MiB of float64 for two channels.
BLOCK_FRAMES = 65_536

CONTENT_TYPES = {OutputFormat.WAV: "audio/wav", OutputFormat.FLAC: "audio/flac"}

_SCALE = 2**15
_FULL_SCALE = (_SCALE - 1) / _SCALE
#: Sizes in a WAV file are 32-bit; this leaves room for its header.
_WAV_LIMIT = 2**32 - 4096
#: libsndfile's SF_ERR_SYSTEM: the operating system refused.
_SYSTEM_ERROR = 2


@dataclass(frozen=True, slots=True)
class EncodedFile:
    """An encoded stem on disk."""

    bytes: int
    sha256: str


def common_gain(peaks: Iterable[float]) -> float:
    """The factor, at most 1, for all stems of a job, so that none with these peaks (1.0 is full scale) clips."""
    loudest = max(peaks, default=0.0)
    return _FULL_SCALE / loudest if loudest > 1.0 else 1.0


def gain_note(gain: float) -> str:
    """How a gain below 1 is told among the result's ``degraded`` entries."""
    return f"gain {20 * math.log10(gain):.2f} dB on every stem, so that none clips"


def encode(source: Path, target: Path, output_format: OutputFormat, gain: float = 1.0) -> EncodedFile:
    """Write the float32 WAV ``source`` to ``target``, times ``gain``, in constant memory.

    Sample rate, channels and number of frames stay. Raises PermanentError for a source that is not audio, is
    empty, holds samples that are not numbers or does not fit the format, InfrastructureError if the target cannot be
    written.
    """
    with _readable(source) as reader, _writable(target, reader, output_format) as writer:
        for block in _blocks(reader):
            writer.write(_quantised(block, gain))
        frames = reader.frames
    _require_complete(target, frames)
    return EncodedFile(target.stat().st_size, file_sha256(target))


def container(output_format: OutputFormat, data_bytes: int) -> str:
    """libsndfile's name of the file format; a WAV too long for 32-bit sizes becomes an RF64 (EBU Tech 3306)."""
    if output_format is OutputFormat.WAV and data_bytes > _WAV_LIMIT:
        return "RF64"
    return output_format.value.upper()


@contextmanager
def _readable(source: Path) -> Iterator[soundfile.SoundFile]:
    try:
        reader = soundfile.SoundFile(source)
    except soundfile.LibsndfileError as error:
        raise _unreadable() from error
    with reader:
        if reader.frames == 0:
            raise PermanentError("the separated stem is empty", code=ErrorCode.SEPARATION_FAILED)
        yield reader


@contextmanager
def _writable(target: Path, like: soundfile.SoundFile, output_format: OutputFormat) -> Iterator[soundfile.SoundFile]:
    file_format = container(output_format, like.frames * like.channels * 2)
    try:
        with soundfile.SoundFile(target, "w", like.samplerate, like.channels, "PCM_16", format=file_format) as writer:
            yield writer
    except soundfile.LibsndfileError as error:
        raise _unwritable() if error.code == _SYSTEM_ERROR else _unfit(output_format) from error


def _require_complete(target: Path, frames: int) -> None:
    """FLAC's last frames are written on closing, and libsndfile does not tell when the disk is full by then."""
    try:
        written = soundfile.info(target).frames
    except soundfile.LibsndfileError as error:
        raise _unwritable() from error
    if written != frames:
        raise _unwritable()


def _blocks(reader: soundfile.SoundFile) -> Iterator[np.ndarray]:
    while True:
        try:
            block = reader.read(BLOCK_FRAMES, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise _unreadable() from error
        if not len(block):
            return
        yield block


def _quantised(block: np.ndarray, gain: float) -> np.ndarray:
    """float32 samples of shape (frames, channels) → int16 of the same shape."""
    # In float64 the product is exact enough to round each sample once.
    scaled = block.astype(np.float64) * (gain * _SCALE)
    if not np.isfinite(scaled).all():
        raise PermanentError("the separated stem holds samples that are not numbers", code=ErrorCode.SEPARATION_FAILED)
    return np.rint(scaled).clip(-_SCALE, _SCALE - 1).astype(np.int16)


def _unreadable() -> PermanentError:
    return PermanentError("the separated stem is not readable audio", code=ErrorCode.SEPARATION_FAILED)


def _unfit(output_format: OutputFormat) -> PermanentError:
    return PermanentError(
        f"the separated stem does not fit into a {output_format.value} file", code=ErrorCode.SEPARATION_FAILED
    )


def _unwritable() -> InfrastructureError:
    # libsndfile passes no errno on; a full disk is what it meets in practice.
    return InfrastructureError("an encoded stem cannot be written: is the disk full?", code=ErrorCode.DISK_FULL)
