"""Decode the audio track of a source file block by block, with ffmpeg's libraries (PyAV)."""

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
from processor.audio.wav import Samples

#: Containers whose header declares the exact length of the audio, not an estimate.
_EXACT = frozenset({"wav", "w64", "aiff", "caf", "flac", "tta", "ogg", "mov", "matroska"})
#: Containers whose declared length in bytes is more reliable than the length that ffmpeg derives.
_MEASURED = frozenset({"wav", "w64", "au", "caf", "asf", "avi", "mp3"})
#: Containers that declare the padding in the last packet.
_PADDED = frozenset({"mov"})
#: The difference to the declared length from which a file counts as cut off, s.
_SHORTFALL = 0.5
#: The effect of codec frames and padding on a length, s. The client is informed if more is missing.
_ROUNDING = 0.1
#: The number of damaged packets that are skipped, as players do, before the file counts as corrupt.
_MAX_DAMAGED_PACKETS = 20
#: The accepted sample rates, Hz. A file of a few bytes that declares 1 Hz would become gigabytes.
_RATES = range(1_000, 1_000_001)
#: The largest channel layout that ffmpeg can mix down to stereo.
_MAX_CHANNELS = 16


@dataclass(frozen=True, slots=True)
class SampleFormat:
    """The audio format that a file's header declares, which may be wrong."""

    container: str
    """The container's first name in ffmpeg."""
    codec: str
    channels: int
    sample_rate: int
    """Frames per second, Hz; 0 if the header does not declare it."""
    seconds: float | None
    """The length in s; None if the header does not declare it, or declares an estimate only."""
    bit_depth: int | None = None
    """The resolution of lossless samples, bits; None for lossy codecs."""


class Track:
    """One stream of one open file. Consume ``blocks`` before ``notes`` and ``require_whole``."""

    def __init__(self, file: BinaryIO, container: InputContainer) -> None:
        streams = container.streams.audio
        if not streams:
            raise no_audio_track(video=bool(container.streams.video))
        # If ffmpeg has no decoder, PyAV's stream has no codec context, although its type annotations promise one.
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
        self.sample_rate = 0
        """The rate of ``blocks``, Hz: that of the first decoded frame; 0 before it."""
        self._frames = 0
        self._channels = 0
        self._damaged = 0

    @property
    def form(self) -> SampleFormat:
        """The format that the header declares."""
        codec = self._stream.codec_context
        return SampleFormat(
            container=self._container.format.name.partition(",")[0],
            codec=codec.name,
            channels=codec.layout.nb_channels,
            sample_rate=codec.sample_rate or 0,
            seconds=self._declared,
            # PyAV promises a sample format, but a damaged header may not declare one.
            bit_depth=getattr(codec.format, "bits", None) if codec.codec.lossless else None,
        )

    def require_supported(self, max_seconds: float) -> None:
        """Raise PermanentError if the header alone shows that the track is not supported or too long."""
        form = self.form
        _require_layout(form.sample_rate or None, form.channels)
        if form.seconds is not None and form.seconds > max_seconds:
            raise audio_too_long(max_seconds)

    def blocks(self, max_seconds: float, cancel: CancelToken) -> Iterator[Samples]:
        """Yield stereo blocks ``(frames, 2)``, float32, at ``sample_rate`` until the end of the stream.

        Raises PermanentError if the track is corrupt or longer than ``max_seconds``, CancelledError.
        """
        self.require_supported(max_seconds)
        for frame in self._resampled(cancel):
            block = frame.to_ndarray()
            self._frames += block.shape[1]
            if self._frames > max_seconds * self.sample_rate:
                raise audio_too_long(max_seconds)
            if not np.isfinite(block).all():
                raise audio_corrupt("the source has samples that are not finite numbers")
            yield np.ascontiguousarray(np.broadcast_to(block, (2, block.shape[1])).T, dtype=np.float32)

    @property
    def notes(self) -> tuple[str, ...]:
        """The changes and losses while decoding, in sentences for the client."""
        notes = []
        if self._tracks > 1:
            notes.append(f"the first of {self._tracks} audio tracks was taken")
        if self._channels > 2:
            notes.append(f"down-mixed from {self._channels} channels to stereo")
        if self._damaged:
            notes.append(f"damaged packets of the source were skipped: {self._damaged}")
        missing = 0.0 if self._declared is None else self._declared - self._seconds
        if missing > _ROUNDING:
            notes.append(f"damaged parts of the source were left out: {missing:.1f} s")
        if not ends_complete(self._file):
            notes.append("the source does not end as its format requires: it may be cut off")
        return tuple(notes)

    def require_whole(self) -> None:
        """Raise PermanentError if the track is empty, or ends earlier than its file declares."""
        if not self._frames:
            raise audio_corrupt() if self._damaged else audio_empty()
        whole = self._seconds
        if self._formats & _MEASURED:
            whole *= max(1.0, (declared_size(self._file) or 0) / size_of(self._file))
        # If damaged parts in the middle were left out, the last frame still has a timestamp near the end.
        elif self._declared is not None and self._start + self._declared - self._end > _SHORTFALL:
            whole = self._declared
        if whole - self._seconds > _SHORTFALL:
            raise audio_truncated(f"its header declares {whole:.1f} s, but it ends after {self._seconds:.1f} s")

    @property
    def _seconds(self) -> float:
        return self._frames / self.sample_rate if self._frames else 0.0

    def _resampled(self, cancel: CancelToken) -> Iterator[av.AudioFrame]:
        """Yield frames of float32 planes, mono or stereo. The format may change within the stream (joined files)."""
        frames = self._decoded(cancel)
        if self._formats & _PADDED:
            frames = trim_padding(frames, None if self._declared is None else self._start + self._declared)
        form: tuple[object, ...] = ()
        resampler: AudioResampler | None = None
        try:
            for frame in frames:
                if form != (form := (frame.format.name, frame.layout.name, frame.sample_rate)):
                    yield from _flush(resampler)
                    channels = frame.layout.nb_channels
                    _require_layout(frame.sample_rate, channels)
                    self._channels = max(self._channels, channels)
                    self.sample_rate = self.sample_rate or frame.sample_rate
                    # ffmpeg mixes mono into stereo at -3 dB. Mono therefore stays mono here, and ``blocks`` doubles it.
                    layout = "mono" if channels == 1 else "stereo"
                    resampler = AudioResampler(format="fltp", layout=layout, rate=self.sample_rate)
                assert resampler is not None
                yield from resampler.resample(frame)
            yield from _flush(resampler)
        except (av.error.FFmpegError, ValueError) as error:
            raise audio_corrupt() from error

    def _decoded(self, cancel: CancelToken) -> Iterator[av.AudioFrame]:
        packets = self._container.demux(self._stream)
        while True:
            cancel.raise_if_set()  # for each packet, because many packets in a row may give no frame
            try:
                packet = next(packets)
            except (StopIteration, IndexError):
                # PyAV raises IndexError after the last packet if ffmpeg has found further streams meanwhile.
                return
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                self._damaged += 1
                if self._damaged > _MAX_DAMAGED_PACKETS:
                    raise
                continue
            for frame in frames:
                if frame.pts is not None and frame.time_base is not None:
                    self._end = float(frame.pts * frame.time_base)
                self._end += frame.samples / frame.sample_rate
                yield frame


@contextmanager
def open_track(source: Path) -> Iterator[Track]:
    """Open the audio track of ``source``.

    Raises PermanentError if the file is empty, not audio or cut off before its header can be read, and OSError.
    """
    with source.open("rb") as file, open_container(file) as container:
        yield Track(file, container)


def _require_layout(rate: int | None, channels: int) -> None:
    if rate is not None and rate not in _RATES:
        raise not_audio(f"the source has a sample rate of {rate} Hz")
    if channels > _MAX_CHANNELS:
        raise not_audio(f"the source has {channels} channels")


def _declared_seconds(container: InputContainer, stream: AudioStream) -> float | None:
    """Return the length of the stream that the file's header declares, s; None if it declares none."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if "DURATION" in stream.metadata:  # Matroska's: the end of the stream, as hours:minutes:seconds
        start = float((stream.start_time or 0) * (stream.time_base or 0))
        try:
            hours, minutes, seconds = stream.metadata["DURATION"].split(":")
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds) - start
        except ValueError:
            return None
    if len(container.streams) == 1 and container.duration:
        return container.duration / av.time_base
    return None


def _flush(resampler: AudioResampler | None) -> list[av.AudioFrame]:
    # A resampler that has nothing to convert answers the end of its input with None.
    return [frame for frame in resampler.resample(None) if frame is not None] if resampler else []
