"""Source files in all formats for tests, and helpers for decoding them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from pipeline.cancellation import CancelToken
from pipeline.errors import PermanentError
from processor.audio.decode import Mixture, decode

RATE = 44_100
Signal = NDArray[np.float32]
"""Samples ``(channels, frames)``."""


def noise(seconds: float, *, rate: int = RATE, channels: int = 2, peak: float = 0.5, seed: int = 0) -> Signal:
    """Return reproducible noise ``(channels, frames)`` below 3 kHz: all codecs keep it, and its delay is measurable."""
    frames = round(seconds * rate)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal((channels, frames)))
    spectrum[:, np.fft.rfftfreq(frames, 1 / rate) > 3000] = 0
    signal = np.fft.irfft(spectrum, frames)
    scaled: Signal = (peak * signal / np.max(np.abs(signal))).astype(np.float32)
    return scaled


def write_pcm(
    path: Path, signal: Signal, *, rate: int = RATE, subtype: str = "PCM_16", container: str | None = None
) -> Path:
    """Write a file with libsndfile."""
    soundfile.write(path, signal.T, rate, subtype=subtype, format=container)
    return path


def write_av(
    path: Path,
    signal: Signal,
    codec: str,
    container: str,
    *,
    rate: int = RATE,
    layout: str = "stereo",
    video_seconds: float = 0.0,
    irregular: bool = False,
    tracks: int = 1,
    bit_rate: int | None = None,
    options: Mapping[str, str] | None = None,
    codec_options: Mapping[str, str] | None = None,
) -> Path:
    """Write a file with ffmpeg. ``options`` are those of the container. ``irregular``: variable video frame rate."""
    with av.open(str(path), "w", format=container, options=dict(options or {})) as output:
        # All streams first: the header is written with the first packet.
        video = _video_stream(output) if video_seconds else None
        streams = [_audio_stream(output, codec, rate, layout, bit_rate) for _ in range(tracks)]
        for stream in streams:
            stream.codec_context.options = dict(codec_options or {})
            frame = av.AudioFrame.from_ndarray(signal.T.reshape(1, -1), format="flt", layout=layout)
            frame.sample_rate, frame.pts = rate, 0
            output.mux([*stream.encode(frame), *stream.encode(None)])
        if video:
            _write_pictures(output, video, video_seconds, irregular=irregular)
    return path


def _audio_stream(
    output: av.container.OutputContainer, codec: str, rate: int, layout: str, bit_rate: int | None
) -> av.AudioStream:
    stream = output.add_stream(codec, rate)
    assert isinstance(stream, av.AudioStream)
    stream.layout = av.AudioLayout(layout)
    if bit_rate is not None:
        stream.codec_context.bit_rate = bit_rate
    return stream


def write_video(path: Path, seconds: float) -> Path:
    """Write a video without audio."""
    with av.open(str(path), "w", format="mp4") as output:
        _write_pictures(output, _video_stream(output), seconds)
    return path


def _video_stream(output: av.container.OutputContainer) -> av.VideoStream:
    return output.add_stream("mpeg4", rate=25, width=64, height=64, pix_fmt="yuv420p")


def _write_pictures(
    output: av.container.OutputContainer, stream: av.VideoStream, seconds: float, *, irregular: bool = False
) -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    numbers = range(round(seconds * 25))
    for number in (number for number in numbers if not irregular or number**2 % 7 < 2):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, 25)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


@dataclass(frozen=True)
class Decoded:
    """A decoded file."""

    mixture: Mixture
    scaled: Signal
    """The input of the model, ``(channels, frames)``."""

    @property
    def signal(self) -> Signal:
        """Return the samples at their original level, ``(channels, frames)``."""
        return (self.scaled * np.float32(self.mixture.peak)).astype(np.float32)


def decoded(source: Path, *, max_seconds: float = 60.0) -> Decoded:
    """Decode into a new folder beside the source."""
    folder = source.with_name(f"{source.name}-decoded")
    folder.mkdir()
    mixture = decode(source, folder, max_seconds=max_seconds, cancel=CancelToken())
    assert [path.name for path in folder.iterdir()] == ["mixture.wav"]
    samples, rate = soundfile.read(mixture.path, dtype="float32")
    assert (rate, samples.shape) == (RATE, (mixture.frames, 2))
    return Decoded(mixture, samples.T)


def lag(reference: Signal, signal: Signal) -> int:
    """Return the delay of ``signal`` in samples: the peak of the cross-correlation of the left channels."""
    size = 1 << (reference.shape[1] + signal.shape[1]).bit_length()
    product = np.fft.rfft(reference[0], size).conj() * np.fft.rfft(signal[0], size)
    position = int(np.argmax(np.fft.irfft(product, size)))
    return position if position < size // 2 else position - size


def refusal(source: Path, *, max_seconds: float = 60.0) -> PermanentError:
    """Return the error with which decoding ``source`` fails."""
    with pytest.raises(PermanentError) as caught:
        decoded(source, max_seconds=max_seconds)
    assert str(source.parent) not in caught.value.message
    return caught.value


SONG = noise(4.0)
#: Functions that write a song of 4 s, by format.
WRITERS: dict[str, Callable[[Path], Path]] = {
    "wav": lambda path: write_pcm(path, SONG, container="WAV"),
    "wav with fact": lambda path: write_pcm(path, SONG, subtype="PCM_24", container="WAVEX"),
    "rf64": lambda path: write_pcm(path, SONG, container="RF64"),
    "aiff": lambda path: write_pcm(path, SONG, container="AIFF"),
    "flac": lambda path: write_pcm(path, SONG, container="FLAC"),
    "mp3": lambda path: write_av(path, SONG, "libmp3lame", "mp3"),
    "lame mp3": lambda path: write_pcm(path, SONG, container="MP3", subtype="MPEG_LAYER_III"),
    "m4a": lambda path: write_av(path, SONG, "aac", "mp4"),
    "m4a for streaming": lambda path: write_av(path, SONG, "aac", "mp4", options={"movflags": "+faststart"}),
    "mp4 in fragments": lambda path: write_av(
        path,
        SONG,
        "aac",
        "mp4",
        options={"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "500000"},
    ),
    "webm": lambda path: write_av(path, noise(4.0, rate=48_000), "libopus", "webm", rate=48_000),
}
