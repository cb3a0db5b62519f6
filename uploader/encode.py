"""Encodes the float32 WAV files of the hand-off as the client's files: PCM or float in WAV, PCM in FLAC.

Quantisation to b bits: n = clip(round(2ᵇ⁻¹ · g · x), −2ᵇ⁻¹, 2ᵇ⁻¹ − 1), rounding half to even. It inverts the usual
decoding x = n / 2ᵇ⁻¹, so unchanged samples of b bits are reproduced exactly. The error of any other sample is at most
half a step, or up to one step just below +1, which b bits cannot represent.

Dither, at 16 bits and on request only, adds noise of triangular distribution (TPDF) between −1 and +1 step before the
rounding, which makes the error independent of the signal: Lipshitz, Wannamaker and Vanderkooy, J. Audio Eng. Soc. 40
(1992), 355-375. The noise derives from a seed, so that in all cases the same input gives the same bytes.

Separated stems can exceed full scale although their mixture does not. Clipping would be audible, and attenuating one
stem alone would break the property that the stems sum to the mixture. So ``common_gain`` attenuates all stems of a job
equally, by the minimum that the loudest one needs: they then sum to the equally attenuated mixture. 32-bit float has no
full scale: it stores the hand-off's samples unchanged, and needs no gain.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.errors import ErrorCode, InfrastructureError, PermanentError
from pipeline.files import file_sha256
from pipeline.messages import OutputFormat, SeparationResult

#: Frames in memory at a time: 1 MiB of float64 for two channels.
BLOCK_FRAMES = 65_536

#: By file extension.
CONTENT_TYPES = {"wav": "audio/wav", "flac": "audio/flac"}

#: The bits of one sample that stand for 32-bit float.
FLOAT_BITS = 32
_FIXED_BITS = {
    OutputFormat.WAV16: 16,
    OutputFormat.WAV24: 24,
    OutputFormat.WAV32F: FLOAT_BITS,
    OutputFormat.FLAC16: 16,
    OutputFormat.FLAC24: 24,
}
#: libsndfile's SFC_SET_ADD_PEAK_CHUNK. In float WAV it adds a chunk with the time of day by default, but a stem that is
#: encoded twice must have the same bytes. soundfile has no function for it.
_SET_ADD_PEAK_CHUNK = 0x1050
#: Maximum data size of a WAV file, bytes: its sizes are 32-bit, and the header needs some room.
_MAX_WAV_BYTES = 2**32 - 4096
#: libsndfile's SF_ERR_SYSTEM: the operating system reported an error.
_SYSTEM_ERROR = 2


@dataclass(frozen=True, slots=True)
class EncodedFile:
    """An encoded stem on disk."""

    bytes: int
    sha256: str


def stem_bits(result: SeparationResult) -> int:
    """Return the bits of one sample of the result's encoded stems: 16, 24, or 32 for float."""
    source_bits = result.source.bits if result.source else 16
    return _FIXED_BITS.get(result.task.output_format, source_bits)


def common_gain(peaks: Iterable[float], bits: int) -> float:
    """Return the gain, at most 1, with which no stem of these peaks (1.0 is full scale) clips at ``bits``."""
    loudest = max(peaks, default=0.0)
    if loudest <= 1.0 or bits == FLOAT_BITS:
        return 1.0
    return (1.0 - 2.0 ** (1 - bits)) / loudest


def gain_note(gain: float) -> str:
    """Describe a gain below 1 for the result's ``degraded`` entries."""
    return f"gain {20 * math.log10(gain):.2f} dB on every stem, so that none clips"


def encode(
    source: Path, target: Path, container: str, *, bits: int = 16, gain: float = 1.0, dither: str | None = None
) -> EncodedFile:
    """Multiply the float32 WAV ``source`` by ``gain`` and write it to ``target``, in constant memory.

    ``container``: ``wav`` or ``flac``. ``bits``: 16, 24, or 32 for float. ``dither``: the seed of the noise at 16 bits;
    None: no dither. Sample rate, channels and number of frames stay the same. Raises PermanentError for a source that
    is not audio, is empty, holds samples that are not numbers or does not fit the format, and InfrastructureError if
    the target cannot be written.
    """
    noise = _Dither(dither) if dither is not None and bits == 16 else None
    with _open_source(source) as reader, _open_target(target, reader, container, bits) as writer:
        for block in _read_blocks(reader):
            if not np.isfinite(block).all():
                raise PermanentError(
                    "the separated stem holds samples that are not numbers", code=ErrorCode.SEPARATION_FAILED
                )
            writer.write(_quantise(block, bits, gain, noise))
        frames = reader.frames
    # On closing a FLAC file, libsndfile writes the last frames and does not report a full disk.
    try:
        complete = soundfile.info(target).frames == frames
    except soundfile.LibsndfileError as error:
        raise _unwritable() from error
    if not complete:
        raise _unwritable()
    return EncodedFile(target.stat().st_size, file_sha256(target))


class _Dither:
    """A reproducible stream of noise with triangular distribution, between -1 and +1 step."""

    def __init__(self, seed: str) -> None:
        self._random = np.random.Generator(np.random.PCG64(int(hashlib.sha256(seed.encode()).hexdigest(), 16)))

    def next(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Return the noise for the next block."""
        return self._random.random(shape) - self._random.random(shape)


def _quantise(block: NDArray[np.float32], bits: int, gain: float, noise: _Dither | None) -> NDArray[np.generic]:
    """Return float32, or the steps of ``bits`` in the upper bits of int32, where libsndfile expects them."""
    if bits == FLOAT_BITS:
        return block * np.float32(gain)
    scale = 2.0 ** (bits - 1)
    # In float64 the product is exact enough to round each sample once.
    scaled = block.astype(np.float64) * (gain * scale)
    if noise is not None:
        scaled += noise.next(block.shape)
    return np.rint(scaled).clip(-scale, scale - 1).astype(np.int32) << (32 - bits)


def container_format(container: str, data_bytes: int) -> str:
    """Return libsndfile's name of the file format: RF64 (EBU Tech 3306) for a WAV too long for 32-bit sizes."""
    if container == "wav" and data_bytes > _MAX_WAV_BYTES:
        return "RF64"
    return container.upper()


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
def _open_target(target: Path, like: soundfile.SoundFile, container: str, bits: int) -> Iterator[soundfile.SoundFile]:
    file_format = container_format(container, like.frames * like.channels * bits // 8)
    subtype = "FLOAT" if bits == FLOAT_BITS else f"PCM_{bits}"
    try:
        with soundfile.SoundFile(target, "w", like.samplerate, like.channels, subtype, format=file_format) as writer:
            soundfile._snd.sf_command(writer._file, _SET_ADD_PEAK_CHUNK, soundfile._ffi.NULL, 0)
            yield writer
    except soundfile.LibsndfileError as error:
        if error.code == _SYSTEM_ERROR:
            raise _unwritable() from error
        raise PermanentError(
            f"the separated stem does not fit into a {container} file", code=ErrorCode.SEPARATION_FAILED
        ) from error


def _read_blocks(reader: soundfile.SoundFile) -> Iterator[NDArray[np.float32]]:
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
