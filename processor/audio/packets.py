"""Decode the packets of one stream to frames, and measure what cannot be decoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import av
import av.packet
from av.audio.stream import AudioStream
from av.container import InputContainer

from pipeline.cancellation import CancelToken
from processor.audio.formats.damage import Damage
from processor.audio.formats.flac import frame_starts

if TYPE_CHECKING:
    _Packet = av.packet.Packet[Any]

#: Codecs with checksums that ffmpeg verifies if it is asked to. The option also makes other decoders refuse sound that
#: every player plays.
_CHECKED = frozenset({"flac", "wavpack", "tta", "ape", "ac3", "eac3", "mlp", "truehd"})
#: Codecs of which ffmpeg skips two frames at the start, although the encoder's delay is one frame.
_SKIPS_TOO_MUCH = frozenset({"wmav1", "wmav2"})
#: Elementary streams: a packet that cannot be decoded extends over everything up to the next frame that is recognised.
_ELEMENTARY = frozenset({"mp3", "aac", "ac3", "eac3"})
#: The zeros after a frame that are taken for the filling of a file, bytes; and those that a frame itself may end with.
_ZEROS, _END = 64, 1
#: The number of errors of the container in a row after which the rest of the file is given up.
_MAX_ERRORS = 20


@dataclass(frozen=True, slots=True)
class Loss:
    """Sound that cannot be decoded, of about this length."""

    seconds: float


class PacketDecoder:
    """Decodes the packets of ``stream``."""

    def __init__(self, container: InputContainer, stream: AudioStream) -> None:
        self._container = container
        self._stream = stream
        self._codec = stream.codec_context
        self._is_elementary = container.format.name in _ELEMENTARY
        self.had_errors = False
        """The container is damaged at a place where a packet should begin."""
        self.had_failures = False
        """A packet could not be decoded."""
        self._delivered = 0
        """The bytes of all packets so far."""
        self._failed = self._failed_sound = 0
        """The bytes that could not be decoded since the last frame; the same without zeros at their end."""
        self._position: int | None = None
        self._bytes = 0
        self._seconds = 0.0
        self._frame_seconds = 0.0
        self._codec.thread_count = 1  # the process that decodes may start no threads
        if self._codec.name in _CHECKED:
            self._codec.options = {"err_detect": "crccheck+explode"}
        if self._codec.name in _SKIPS_TOO_MUCH:
            self._codec.options = {"flags2": "+skip_manual"}

    def decode(self, cancel: CancelToken, damage: Damage) -> Iterator[av.AudioFrame | Loss]:
        """Yield the frames and losses in the order of the file. Raises CancelledError.

        ``damage`` is what ffmpeg does not report. It gives the packets of an Ogg page before which a page is missing
        the stamps of the missing ones, and corrects itself at its end.
        """
        held: list[av.AudioFrame] = []
        for item in self._decoded(cancel, deque(damage.skipped)):
            if isinstance(item, Loss):
                yield item
                continue
            if held and self._position not in damage.resumptions:
                yield from _moved_to(held, item)
                held = []
            if self._position in damage.resumptions:
                held.append(item)
            else:
                yield item
        yield from held

    def _decoded(self, cancel: CancelToken, skipped: deque[tuple[int, int]]) -> Iterator[av.AudioFrame | Loss]:
        skip = 1 if self._codec.name in _SKIPS_TOO_MUCH else 0
        for packet in self._packets():
            cancel.raise_if_set()  # for each packet, because many packets in a row may give no frame
            while skipped and skipped[0][0] <= self._delivered:
                yield Loss(self._estimate(skipped.popleft()[1]))
            self._delivered += packet.size if packet else 0
            try:
                frames = self._frames(packet)
            except av.error.FFmpegError:
                self.had_failures = True
                if self._is_elementary:
                    self._note_failure(packet)
                else:
                    yield Loss(self._lost_seconds(packet))
                continue
            if self._failed and (frames or packet is None):
                # Zeros after the last frame are no sound.
                yield Loss(self._estimate(self._failed if frames else self._failed_sound))
                self._failed = self._failed_sound = 0
            self._measure(packet, frames)
            self._position = packet.pos if packet else None
            yield from frames[skip:]
            skip = max(skip - len(frames), 0)

    def _note_failure(self, packet: _Packet | None) -> None:
        """Count the bytes of a damaged packet of an elementary stream; what precedes the first frame is no sound."""
        if packet and self._seconds:
            self._failed += packet.size
            if any(bytes(packet)):
                self._failed_sound = self._failed

    def _frames(self, packet: _Packet | None) -> list[av.AudioFrame]:
        try:
            return self._codec.decode(packet)
        except av.error.FFmpegError:
            # The last frame of an elementary stream may have the zeros after it in its packet.
            content = bytes(packet or b"")
            frame = content.rstrip(b"\0")
            if not self._is_elementary or not frame or len(content) - len(frame) < _ZEROS:
                raise
            return self._codec.decode(av.Packet(frame + bytes(_END)))

    def _packets(self) -> Iterator[_Packet | None]:
        """Yield the packets, then None: the end of the stream."""
        packets = self._container.demux(self._stream)
        errors = 0
        while errors < _MAX_ERRORS:
            try:
                packet = next(packets)
            except (StopIteration, IndexError):
                # PyAV raises IndexError after the last packet if ffmpeg has found further streams meanwhile.
                break
            except av.error.FFmpegError:
                self.had_errors = True
                errors += 1
                packets = self._container.demux(self._stream)
                continue
            errors = 0
            if self._codec.name == "flac" and packet.size:
                yield from self._split(packet)
            elif packet.size:
                yield packet
        yield None

    def _split(self, packet: _Packet) -> Iterator[_Packet]:
        """Yield the frames of a packet of FLAC one by one, if it has several."""
        content = bytes(packet)
        starts = frame_starts(content, self._codec.extradata or b"")
        if len(starts) < 2:
            yield packet
            return
        ends = [offset for offset, _ in starts[1:]] + [len(content)]
        for (offset, sample), end in zip(starts, ends, strict=True):
            piece = av.Packet(content[offset:end])
            piece.time_base = packet.time_base
            if packet.time_base and self._codec.sample_rate:
                piece.pts = round(sample / self._codec.sample_rate / packet.time_base)
            yield piece

    def _measure(self, packet: _Packet | None, frames: list[av.AudioFrame]) -> None:
        self._bytes += packet.size if packet else 0
        self._seconds += sum(frame.samples / frame.sample_rate for frame in frames)
        if frames:
            self._frame_seconds = frames[-1].samples / frames[-1].sample_rate

    def _lost_seconds(self, packet: _Packet | None) -> float:
        """Estimate the length of the sound in a damaged packet of a container, s."""
        if packet is None:
            return 0.0
        seconds = float((packet.duration or 0) * (packet.time_base or 0))
        if abs(seconds - self._frame_seconds) < 0.002 or not seconds:  # the durations of some containers are rounded
            seconds = self._frame_seconds
        return seconds

    def _estimate(self, size: int) -> float:
        """Estimate the length of ``size`` bytes of an elementary stream: whole frames, at least one, s."""
        if not self._seconds or not size:
            return 0.0
        frames = size * self._seconds / self._bytes / self._frame_seconds
        return max(round(frames), 1) * self._frame_seconds


def _moved_to(frames: list[av.AudioFrame], following: av.AudioFrame) -> list[av.AudioFrame]:
    """Return ``frames`` with stamps that end where the ``following`` one begins, if there is a gap."""
    last = frames[-1]
    if following.pts is None or last.pts is None or last.time_base is None:
        return frames
    gap = following.pts - last.pts - round(last.samples / last.sample_rate / last.time_base)
    for frame in frames if gap > 0 else ():
        frame.pts = None if frame.pts is None else frame.pts + gap
    return frames
