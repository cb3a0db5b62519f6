"""From a source file of any kind to what the models work on: 44.1 kHz stereo float32, peak exactly full scale."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import soundfile
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from pipeline.cancel import CancelToken
from pipeline.errors import ErrorCode, PermanentError
from pipeline.workdir import disk_error

Samples = NDArray[np.float32]

#: The rate of every UVR model, Hz.
SAMPLE_RATE = 44_100
#: RF64 is WAV for any length, and libsndfile's plain float WAV has the time of day in it: a song that is separated
#: twice must give the same bytes.
CONTAINER = "RF64"
#: Demuxers that read one file and nothing else. Playlists and the like, which would have ffmpeg open further files or
#: addresses that the source names, are not among them.
DEMUXERS = "wav,w64,aiff,au,caf,flac,mp3,ogg,aac,ac3,eac3,amr,ape,wv,tta,mov,matroska,asf,avi,mpegts,mpeg,flv"
#: Containers whose header states how long the audio is, rather than an estimate.
_EXACT_CONTAINERS = {"wav", "w64", "aiff", "caf", "flac", "ogg", "mov", "matroska"}
#: How much shorter than its header says a file may be before it counts as cut off, s.
_SHORTFALL = 0.5
#: Damaged packets that are passed over, as players do, before the file counts as corrupt.
_DAMAGE_ALLOWED = 20


@dataclass(frozen=True, slots=True)
class Mixture:
    """A decoded song, ready for a model.

    ``path``: float32 WAV, ``SAMPLE_RATE``, stereo, scaled so that its largest absolute sample is 1.0 (or silent).
    """

    path: Path
    peak: float
    """The largest absolute sample before scaling: multiply stems by it to get the song's own level back."""
    frames: int
    notes: tuple[str, ...]
    """What was changed or lost on the way, fit to be shown to the client."""

    @property
    def duration(self) -> float:
        """Length in s."""
        return self.frames / SAMPLE_RATE


def decode(source: Path, folder: Path, *, max_seconds: float, cancel: CancelToken) -> Mixture:
    """Decode ``source`` into ``folder``, in constant memory.

    Raises PermanentError for what is not audio, empty, corrupt, cut off or longer than ``max_seconds``;
    InfrastructureError if the disk is full; CancelledError.
    """
    raw = folder / "decoded.wav"
    try:
        with source.open("rb") as file, _opened(file) as container:
            stream = _audio_stream(container)
            declared = _declared_seconds(container, stream)
            if declared > max_seconds:
                raise _too_long(max_seconds)
            reader = _Reader(container, stream, max_seconds, cancel)
            peak, frames = _write(reader.blocks(), raw)
            notes = reader.notes
            if frames == 0:
                raise _empty() if not reader.damaged else _corrupt()
            _require_whole(container, declared, frames / SAMPLE_RATE)
        mixture = folder / "mixture.wav"
        _write(_scaled(raw, peak), mixture)
    except OSError as error:
        raise disk_error(error) from error
    raw.unlink()
    return Mixture(mixture, peak, frames, notes)


def _opened(file: object) -> InputContainer:
    options = {"format_whitelist": DEMUXERS, "protocol_whitelist": "none"}
    try:
        container = av.open(file, mode="r", container_options=options, metadata_errors="replace")
    except (av.error.FFmpegError, ValueError) as error:
        raise PermanentError("the source is not an audio file that can be read", code=ErrorCode.NOT_AUDIO) from error
    assert isinstance(container, InputContainer)
    return container


def _audio_stream(container: InputContainer) -> AudioStream:
    if not container.streams.audio:
        raise PermanentError("the source has no audio track", code=ErrorCode.NOT_AUDIO)
    return container.streams.audio[0]


def _declared_seconds(container: InputContainer, stream: AudioStream) -> float:
    """What the file's header says, s; 0 if it says nothing."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / av.time_base


class _Reader:
    """Decodes one stream into stereo blocks."""

    def __init__(self, container: InputContainer, stream: AudioStream, max_seconds: float, cancel: CancelToken) -> None:
        self._container = container
        self._stream = stream
        self._max_frames = int(max_seconds * SAMPLE_RATE)
        self._max_seconds = max_seconds
        self._cancel = cancel
        self._channels = stream.codec_context.channels
        # ffmpeg mixes mono into stereo at -3 dB: mono is resampled as it is and doubled here.
        layout = "mono" if self._channels == 1 else "stereo"
        self._resampler = AudioResampler(format="fltp", layout=layout, rate=SAMPLE_RATE)
        self.damaged = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed or lost."""
        notes = []
        if self._channels > 2:
            notes.append(f"down-mixed from {self._channels} channels to stereo")
        if self.damaged:
            notes.append(f"{self.damaged} damaged packets of the source were passed over")
        return tuple(notes)

    def blocks(self) -> Iterator[Samples]:
        """Blocks ``(frames, 2)`` until the end of the stream."""
        frames = 0
        for frame in self._frames():
            block = frame.to_ndarray()
            frames += block.shape[1]
            if frames > self._max_frames:
                raise _too_long(self._max_seconds)
            if not np.isfinite(block).all():
                raise _corrupt()
            self._cancel.raise_if_set()
            yield np.ascontiguousarray(np.broadcast_to(block, (2, block.shape[1])).T, dtype=np.float32)

    def _frames(self) -> Iterator[av.AudioFrame]:
        try:
            for packet in self._container.demux(self._stream):
                for frame in self._decoded(packet):
                    yield from self._resampler.resample(frame)
            yield from self._resampler.resample(None)
        except (av.error.FFmpegError, ValueError) as error:
            raise _corrupt() from error

    def _decoded(self, packet: av.Packet[AudioStream]) -> list[av.AudioFrame]:
        try:
            return packet.decode()
        except av.error.InvalidDataError:
            self.damaged += 1
            if self.damaged > _DAMAGE_ALLOWED:
                raise
            return []


def _write(blocks: Iterator[Samples], target: Path) -> tuple[float, int]:
    """Write blocks to a float32 WAV; returns the largest absolute sample and the number of frames."""
    peak, frames = 0.0, 0
    try:
        with soundfile.SoundFile(target, "w", SAMPLE_RATE, 2, subtype="FLOAT", format=CONTAINER) as file:
            for block in blocks:
                file.write(block)
                frames += len(block)
                peak = max(peak, float(np.abs(block).max(initial=0.0)))
    except soundfile.LibsndfileError as error:
        # libsndfile does not say which; writing a plain file to an open folder has no other way to fail.
        raise OSError(errno.ENOSPC, "the disk is full") from error
    return peak, frames


def _scaled(source: Path, peak: float) -> Iterator[Samples]:
    scale = np.float32(1.0 / peak) if peak > 0 else np.float32(1.0)
    with soundfile.SoundFile(source) as file:
        for block in file.blocks(blocksize=1 << 18, dtype="float32"):
            yield np.clip(block * scale, -1.0, 1.0)


def _require_whole(container: InputContainer, declared: float, decoded: float) -> None:
    exact = bool(_EXACT_CONTAINERS & set(container.format.name.split(",")))
    if exact and declared - decoded > _SHORTFALL:
        raise PermanentError(
            f"the source is cut off: it says that it is {declared:.1f} s long, and ends after {decoded:.1f} s",
            code=ErrorCode.AUDIO_CORRUPT,
        )


def _too_long(max_seconds: float) -> PermanentError:
    return PermanentError(f"the audio is longer than {max_seconds:g} s", code=ErrorCode.AUDIO_TOO_LONG)


def _empty() -> PermanentError:
    return PermanentError("the source has no audio in it", code=ErrorCode.AUDIO_EMPTY)


def _corrupt() -> PermanentError:
    return PermanentError("the source's audio is corrupt", code=ErrorCode.AUDIO_CORRUPT)
