"""Decode one container's first audio stream to stereo, each sound at its place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer

from pipeline.cancellation import CancelToken
from processor.audio.container import DECODERS
from processor.audio.downmix import to_stereo
from processor.audio.errors import no_audio_track, not_audio
from processor.audio.formats.byte_ranges import size_of
from processor.audio.formats.damage import Damage, find_damage
from processor.audio.formats.declared_size import declared_size
from processor.audio.gapless import Block, trim_last_packet, trim_to_length
from processor.audio.packets import Loss, PacketDecoder
from processor.audio.timeline import MAX_GAP, Clock, Timeline
from processor.audio.wav import Samples

#: Containers whose header declares the exact length of the audio, not an estimate.
_EXACT = frozenset({"wav", "w64", "aiff", "caf", "flac", "tta", "wv", "ape", "ogg", "mov", "matroska", "flv"})
#: Containers whose declared length in bytes is more reliable than the length that ffmpeg derives.
_MEASURED = frozenset({"wav", "w64", "au", "caf", "asf", "avi", "mp3", "flv"})
#: Containers that have time stamps of their own.
_STAMPED = frozenset({"mov", "matroska", "mpegts", "mpeg", "flv", "asf", "ogg", "flac"})
#: Of these, the ones whose time begins at 0, and not with their first packet.
_FROM_ZERO = frozenset({"mov", "matroska", "flac"})
#: Of these, the ones whose stamps count samples.
_COUNTED = frozenset({"ogg", "flac"})
#: Containers with damage that ffmpeg does not report.
_CHECKED = frozenset({"ogg", "matroska", "aac"})
#: Containers that lose nothing of a declared length to rounding, s.
_SAMPLE_EXACT = frozenset({"wav", "w64", "aiff", "au", "caf", "flac", "tta", "wv", "ape"})
#: Containers that declare the padding in the last packet.
_PADDED = frozenset({"mov"})
#: Containers that declare the number of samples of codecs with frames of fixed size.
_COUNTING = frozenset({"wav", "w64"})
#: The accepted sample rates, Hz. A file of a few bytes that declares 1 Hz would become gigabytes.
_RATES = range(1_000, 1_000_001)
#: The largest number of channels.
_MAX_CHANNELS = 16
#: The difference between the starts of two streams, s, that is the delay of an encoder and not a pause; in ASF more.
_ENCODER_DELAY, _ASF_DELAY = 0.015, 0.2
#: The frames of one block of silence.
_SILENCE = 1 << 16


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


class ChainLink:
    """The first audio stream of one container: a whole file, or one link of a chained one. Consume ``blocks`` first."""

    def __init__(self, file: BinaryIO, container: InputContainer) -> None:
        """Raises PermanentError if the container has no audio that can be decoded."""
        streams = container.streams.audio
        if not streams:
            raise no_audio_track(video=bool(container.streams.video))
        # If ffmpeg has no decoder, PyAV's stream has no codec context, although its type annotations promise one.
        codec = getattr(streams[0], "codec_context", None)
        if codec is None or codec.name not in DECODERS:
            raise not_audio("the source's audio is of a kind that cannot be decoded")
        self._file = file
        self._container = container
        self._formats = frozenset(container.format.name.split(","))
        self._stream: AudioStream = streams[0]
        self._start = float((self._stream.start_time or 0) * (self._stream.time_base or 0))
        self._declared_end = _declared_end(container, self._stream) if self._formats & _EXACT else None
        self.tracks = len(streams)
        self.channels = 0
        self.end = 0.0
        """The length of the sound and silence so far, s."""
        self._decoder = PacketDecoder(container, self._stream)
        self._origin = self._first_stamp()
        self.timeline = Timeline(self._clock(damaged=False))
        self._damage = Damage()

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
            bit_depth=_bit_depth(self._stream),
        )

    def blocks(self, cancel: CancelToken) -> Iterator[Block]:
        """Yield the sound and the silence between, in order. Raises PermanentError, CancelledError."""
        if self._formats & _CHECKED:
            position = self._file.tell()  # ffmpeg continues to read there
            self._damage = find_damage(self._file)
            self._file.seek(position)
        self.timeline = Timeline(self._clock(damaged=self._damage.parts > 0))
        blocks = self._placed(cancel)
        if self._formats & _PADDED:
            blocks = trim_last_packet(blocks, self._declared)
        elif self._formats & _COUNTING and self._declared and not self._stream.codec_context.name.startswith("pcm"):
            blocks = trim_to_length(blocks, self._declared)
        for block in blocks:
            self.end = block.start + block.seconds
            yield block

    @property
    def had_errors(self) -> bool:
        """Parts of the container could not be read."""
        return self._decoder.had_errors

    @property
    def had_failures(self) -> bool:
        """Packets could not be decoded."""
        return self._decoder.had_failures or self._decoder.had_errors

    @property
    def shortfall(self) -> float:
        """The sound that an unreliable header declares in excess of what there is, s: that of an AVI."""
        duration = float((self._stream.duration or 0) * (self._stream.time_base or 0))
        return max(duration - self.end, 0.0) if "avi" in self._formats else 0.0

    @property
    def damaged_parts(self) -> int:
        """The number of parts of the file with a wrong checksum."""
        return self._damage.parts

    @property
    def rounding(self) -> float:
        """The difference to the declared length that the container and its codecs explain, s."""
        return 0.001 if self._formats & _SAMPLE_EXACT else 0.1

    @property
    def missing(self) -> float:
        """The length of the sound that the header declares and that the file ends before, s."""
        if self._formats & _MEASURED:
            size = declared_size(self._file)
            if size is not None:
                return self.end * max(size / size_of(self._file) - 1, 0.0)
        if self._declared is None or self.timeline.recounts:
            return 0.0
        return max(self._declared - self.end, 0.0)

    @property
    def _declared(self) -> float | None:
        """The length that the header declares, including a delay before the sound, s."""
        return (
            None
            if self._declared_end is None
            else self._declared_end - (self._start if self._origin is None else self._origin)
        )

    def _first_stamp(self) -> float | None:
        """Return the stamp of the beginning of the result, s; None: the first frame's."""
        if self._formats & _FROM_ZERO and 0 <= self._start <= MAX_GAP:
            return 0.0
        first = (self._container.start_time or 0) / av.time_base
        is_delay = self._start - first > (_ASF_DELAY if "asf" in self._formats else _ENCODER_DELAY)
        return first if is_delay and self._formats & _STAMPED else None

    def _clock(self, *, damaged: bool) -> Clock:
        is_damage = "flac" in self._formats or damaged
        return Clock(self._origin, self._declared_end, bool(self._formats & _COUNTED), is_damage)

    def _placed(self, cancel: CancelToken) -> Iterator[Block]:
        timeline, rate = self.timeline, 0
        for item in self._decoder.decode(cancel, self._damage):
            if isinstance(item, Loss):
                timeline.lose(item.seconds)
                continue
            _require_layout(item.sample_rate, item.layout.nb_channels)
            self.channels = max(self.channels, item.layout.nb_channels)
            samples, rate = to_stereo(item), item.sample_rate
            offset = timeline.place(self._stamp(item), len(samples) / rate)
            yield from self._silence(offset, rate)
            samples = samples[max(round(-offset * rate), 0) :]
            yield self._advance(samples, rate, round(item.duration * (item.time_base or 0) * rate))
        lost = timeline.flush()
        if rate:
            yield from self._silence(lost, rate)

    def _stamp(self, frame: av.AudioFrame) -> float | None:
        if frame.pts is None or frame.time_base is None or not self._formats & _STAMPED:
            return None
        return float(frame.pts * frame.time_base)

    def _silence(self, seconds: float, rate: int) -> Iterator[Block]:
        frames = round(seconds * rate)
        while frames > 0:
            silence = np.zeros((min(frames, _SILENCE), 2), np.float32)
            frames -= len(silence)
            yield self._advance(silence, rate)

    def _advance(self, samples: Samples, rate: int, declared: int = 0) -> Block:
        block = Block(samples, rate, self.timeline.position, declared)
        self.timeline.position += block.seconds
        return block

    def require_layout(self) -> None:
        """Raise PermanentError if the header declares a sample rate or a number of channels that is not supported."""
        form = self.form
        _require_layout(form.sample_rate or None, form.channels)


def _require_layout(rate: int | None, channels: int) -> None:
    if rate is not None and rate not in _RATES:
        raise not_audio(f"the source has a sample rate of {rate} Hz")
    if channels > _MAX_CHANNELS:
        raise not_audio(f"the source has {channels} channels")


def _declared_end(container: InputContainer, stream: AudioStream) -> float | None:
    """Return the stamp at which the stream ends according to the file's header, s; None if it declares none."""
    start = float((stream.start_time or 0) * (stream.time_base or 0))
    if stream.duration and stream.time_base:
        return start + float(stream.duration * stream.time_base)
    if "DURATION" in stream.metadata:  # Matroska's: the end of the stream, as hours:minutes:seconds
        try:
            hours, minutes, seconds = stream.metadata["DURATION"].split(":")
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        except ValueError:
            return None
    if len(container.streams) == 1 and container.duration:
        is_end = container.format.name.startswith("matroska")
        return container.duration / av.time_base + (0.0 if is_end else start)
    return None


def _bit_depth(stream: AudioStream) -> int | None:
    """Return the resolution of a lossless stream, bits; None for a lossy one."""
    codec = stream.codec_context
    if not codec.codec.lossless or codec.format is None:
        return None
    extra = codec.extradata or b""
    if codec.name == "flac" and len(extra) > 13:  # STREAMINFO, RFC 9639, 8.2
        return (extra[12] & 1) << 4 | (extra[13] >> 4) + 1
    if codec.name == "alac" and len(extra) > 17:  # after the header of the box: Apple Lossless, "Magic Cookie"
        return extra[17]
    digits = "".join(filter(str.isdigit, codec.name)) if codec.name.startswith("pcm_") else ""
    if digits or codec.format.name.startswith(("flt", "dbl")):
        return int(digits or codec.format.bits)
    return min(codec.format.bits, 24)  # of other codecs, 24 bits are decoded to 32
