"""The audio track of a source file, decoded by ffmpeg's libraries (PyAV) block by block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer

from pipeline.cancellation import CancelToken
from processor.audio.container import open_container, size_of
from processor.audio.declared_size import declared_size
from processor.audio.errors import (
    audio_corrupt,
    audio_empty,
    audio_too_long,
    audio_truncated,
    no_audio_track,
    not_audio,
)
from processor.audio.gapless import trim_padding
from processor.audio.truncation import ends_complete
from processor.audio.wav import SAMPLE_RATE, Samples

#: Containers whose header states how long the audio is, rather than an estimate.
_EXACT = frozenset({"wav", "w64", "aiff", "caf", "flac", "tta", "ogg", "mov", "matroska"})
#: Containers whose length in bytes is worth more than what ffmpeg makes of it.
_MEASURED = frozenset({"wav", "w64", "au", "caf", "asf", "avi", "mp3"})
#: Containers whose packets tell how much of the last one is the song's.
_PADDED = frozenset({"mov"})
#: How much shorter than its header says a file may be before it counts as cut off, s.
_SHORTFALL = 0.5
#: What codecs' frames and padding may make of a length, s; where more is missing, the client is told.
_ROUNDING = 0.1
#: Damaged packets that are passed over, as players do, before the file counts as corrupt.
_DAMAGE_ALLOWED = 20
#: Sample rates of audio, Hz. A file of a few bytes that claims one of 1 Hz would become gigabytes.
_RATES = range(1_000, 1_000_001)
#: More than this is no layout that ffmpeg could mix down to stereo.
_MOST_CHANNELS = 16


@dataclass(frozen=True, slots=True)
class SampleFormat:
    """What a file's header says of its audio, which may be wrong."""

    container: str
    """By its first name in ffmpeg."""
    codec: str
    channels: int
    sample_rate: int
    """Frames per second, Hz; 0 if the header does not say."""
    seconds: float | None
    """Length in s; None if the header does not say, or the format knows no more than an estimate."""


class Track:
    """One stream of one open file. ``blocks`` first; ``notes`` and ``require_whole`` once it is exhausted."""

    def __init__(self, file: BinaryIO, container: InputContainer) -> None:
        streams = container.streams.audio
        if not streams:
            raise no_audio_track(video=bool(container.streams.video))
        # PyAV has no codec context where ffmpeg has no decoder, whatever its annotations say.
        if getattr(streams[0], "codec_context", None) is None:
            raise not_audio("the source's audio is of a kind that cannot be decoded")
        self._file = file
        self._container = container
        self._formats = frozenset(container.format.name.split(","))
        self._stream: AudioStream = streams[0]
        self._tracks = len(streams)
        self._declared = _declared_seconds(container, self._stream) if self._formats & _EXACT else None
        self._start = float((self._stream.start_time or 0) * (self._stream.time_base or 0))
        self._end = self._start
        self._frames = 0
        self._channels = 0
        self._damaged = 0

    @property
    def form(self) -> SampleFormat:
        """What there is to know before anything is decoded."""
        codec = self._stream.codec_context
        return SampleFormat(
            container=self._container.format.name.partition(",")[0],
            codec=codec.name,
            channels=codec.layout.nb_channels,
            sample_rate=codec.sample_rate or 0,
            seconds=self._declared,
        )

    def require_form(self, max_seconds: float) -> None:
        """Raise PermanentError if already the header tells that this cannot be decoded, or not within the limit."""
        form = self.form
        if form.sample_rate:
            _require_rate(form.sample_rate)
        _require_channels(form.channels)
        if form.seconds is not None and form.seconds > max_seconds:
            raise audio_too_long(max_seconds)

    def blocks(self, max_seconds: float, cancel: CancelToken) -> Iterator[Samples]:
        """Stereo blocks ``(frames, 2)`` at ``SAMPLE_RATE`` until the end of the stream.

        Raises PermanentError for what is corrupt or longer than ``max_seconds``, CancelledError.
        """
        self.require_form(max_seconds)
        for frame in self._resampled(cancel):
            block = frame.to_ndarray()
            self._frames += block.shape[1]
            if self._frames > max_seconds * SAMPLE_RATE:
                raise audio_too_long(max_seconds)
            if not np.isfinite(block).all():
                raise audio_corrupt("the source has samples that are no numbers")
            yield np.ascontiguousarray(np.broadcast_to(block, (2, block.shape[1])).T, dtype=np.float32)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed or lost, fit to be shown to the client."""
        notes = []
        if self._tracks > 1:
            notes.append(f"the first of {self._tracks} audio tracks was taken")
        if self._channels > 2:
            notes.append(f"down-mixed from {self._channels} channels to stereo")
        if self._damaged:
            notes.append(f"damaged packets of the source were passed over: {self._damaged}")
        if self._missing > _ROUNDING:
            notes.append(f"damaged parts of the source were left out: {self._missing:.1f} s")
        if not ends_complete(self._file):
            notes.append("the source does not end as its format has it: it may be cut off")
        return tuple(notes)

    def require_whole(self) -> None:
        """Raise PermanentError if the track is empty, or ends earlier than its file says."""
        if not self._frames:
            raise audio_corrupt() if self._damaged else audio_empty()
        whole = self._seconds
        if self._formats & _MEASURED:
            whole *= max(1.0, (declared_size(self._file) or 0) / size_of(self._file))
        # Where damage in the middle was left out, the last frame still stands at its place near the end.
        elif self._declared is not None and self._start + self._declared - self._end > _SHORTFALL:
            whole = self._declared
        if whole - self._seconds > _SHORTFALL:
            raise audio_truncated(f"it says that it is {whole:.1f} s long, and ends after {self._seconds:.1f} s")

    @property
    def _seconds(self) -> float:
        return self._frames / SAMPLE_RATE

    @property
    def _missing(self) -> float:
        return 0.0 if self._declared is None else self._declared - self._seconds

    def _resampled(self, cancel: CancelToken) -> Iterator[av.AudioFrame]:
        """Frames of float32 planes, mono or stereo. Concatenated files change form in mid-stream."""
        form: tuple[object, ...] = ()
        resampler: AudioResampler | None = None
        try:
            for frame in self._unpadded(cancel):
                if form != (form := (frame.format.name, frame.layout.name, frame.sample_rate)):
                    yield from _flushed(resampler)
                    resampler = self._resampler(frame)
                assert resampler is not None
                yield from resampler.resample(frame)
            yield from _flushed(resampler)
        except (av.error.FFmpegError, ValueError) as error:
            raise audio_corrupt() from error

    def _resampler(self, frame: av.AudioFrame) -> AudioResampler:
        channels = frame.layout.nb_channels
        _require_rate(frame.sample_rate)
        _require_channels(channels)
        self._channels = max(self._channels, channels)
        # ffmpeg mixes mono into stereo at -3 dB: mono is resampled as it is and doubled afterwards.
        return AudioResampler(format="fltp", layout="mono" if channels == 1 else "stereo", rate=SAMPLE_RATE)

    def _unpadded(self, cancel: CancelToken) -> Iterator[av.AudioFrame]:
        frames = self._decoded(cancel)
        if not self._formats & _PADDED:
            return frames
        return trim_padding(frames, None if self._declared is None else self._start + self._declared)

    def _decoded(self, cancel: CancelToken) -> Iterator[av.AudioFrame]:
        for packet in self._packets():
            cancel.raise_if_set()  # for each packet, since there may be many in a row that give no frame
            for frame in self._frames_of(packet):
                if frame.pts is not None and frame.time_base is not None:
                    self._end = float(frame.pts * frame.time_base)
                self._end += frame.samples / frame.sample_rate
                yield frame

    def _packets(self) -> Iterator[av.Packet[AudioStream]]:
        try:
            yield from self._container.demux(self._stream)
        except IndexError:
            # Streams that ffmpeg has come upon meanwhile are not known to PyAV, which stumbles over them at the end,
            # behind the last packet of those that are.
            return

    def _frames_of(self, packet: av.Packet[AudioStream]) -> list[av.AudioFrame]:
        try:
            return packet.decode()
        except av.error.InvalidDataError:
            self._damaged += 1
            if self._damaged > _DAMAGE_ALLOWED:
                raise
            return []


@contextmanager
def open_track(source: Path) -> Iterator[Track]:
    """The audio track of ``source``.

    Raises PermanentError for what is empty, not audio or cut off before it can be read, OSError.
    """
    with source.open("rb") as file, open_container(file) as container:
        yield Track(file, container)


def _require_rate(rate: int) -> None:
    if rate not in _RATES:
        raise not_audio(f"the source has a sample rate of {rate} Hz")


def _require_channels(channels: int) -> None:
    if channels > _MOST_CHANNELS:
        raise not_audio(f"the source has {channels} channels")


def _declared_seconds(container: InputContainer, stream: AudioStream) -> float | None:
    """How long the stream is by what the file's header says, s; None if it says nothing about this stream."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if "DURATION" in stream.metadata:  # Matroska's: when the stream ends
        end = _parsed(stream.metadata["DURATION"])
        start = float((stream.start_time or 0) * (stream.time_base or 0))
        return None if end is None else end - start
    if len(container.streams) == 1 and container.duration:
        return container.duration / av.time_base
    return None


def _parsed(duration: str) -> float | None:
    """Seconds of ``hours:minutes:seconds``."""
    try:
        hours, minutes, seconds = duration.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return None


def _flushed(resampler: AudioResampler | None) -> list[av.AudioFrame]:
    # A resampler that has nothing to do answers the end of its input with itself.
    return [frame for frame in resampler.resample(None) if frame is not None] if resampler else []
