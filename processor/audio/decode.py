"""Decode a source file of any kind to the input of the models: 44.1 kHz stereo float32, peak exactly at full scale."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.cancellation import CancelToken
from pipeline.files import disk_error
from processor.audio.depth import stem_depth
from processor.audio.errors import audio_corrupt
from processor.audio.resampler import Resampler, resampled_frames
from processor.audio.track import open_track
from processor.audio.wav import SAMPLE_RATE, Samples, WavWriter, read_blocks, write_wav

#: One frame of the written files: two channels of float32.
_FRAME_BYTES = 8
#: The number of copies of the song on the disk while it is scaled.
_COPIES = 2


@dataclass(frozen=True, slots=True)
class Mixture:
    """A decoded song, ready for a model.

    ``path``: float32 WAV, ``SAMPLE_RATE``, stereo, scaled so that its largest absolute sample is 1.0 (or silent).
    """

    path: Path
    peak: float
    """The largest absolute sample before scaling: stems multiplied by it have the song's original level."""
    frames: int
    notes: tuple[str, ...]
    """The changes and losses while decoding, in sentences for the client."""
    source_rate: int = SAMPLE_RATE
    """The source's rate, Hz."""
    source_frames: int | None = None
    """The length at the source's rate; None: ``frames``."""
    bits: int = 16
    """The default depth of the stems: 16 or 24."""

    @property
    def duration(self) -> float:
        """The length in s."""
        return self.frames / SAMPLE_RATE

    def frames_at(self, rate: int) -> int:
        """Return the length in frames at ``rate`` Hz; at the source's rate, the source's own."""
        if rate == SAMPLE_RATE or self.source_frames is None:
            return resampled_frames(self.frames, SAMPLE_RATE, rate)
        return resampled_frames(self.source_frames, self.source_rate, rate)


def max_decoded_bytes(max_seconds: float) -> int:
    """Return the disk space that ``decode`` may need besides the source, bytes, without the files' headers."""
    return round(max_seconds * SAMPLE_RATE) * _FRAME_BYTES * _COPIES


def decode(source: Path, folder: Path, *, max_seconds: float, cancel: CancelToken) -> Mixture:
    """Decode ``source`` into ``folder``, in constant memory.

    Raises PermanentError if the source is not audio, empty, corrupt, cut off or longer than ``max_seconds``;
    InfrastructureError if the disk is full; CancelledError.
    """
    raw, mixture = folder / "decoded.wav", folder / "mixture.wav"
    try:
        with open_track(source) as track, WavWriter(raw, channels=2) as file:
            resampler = None
            for block in track.blocks(max_seconds, cancel):
                resampler = resampler or Resampler(track.sample_rate, SAMPLE_RATE, channels=2)
                _append(file, resampler.process(block))
            track.require_whole()
            assert resampler is not None  # or the track would be empty
            _append(file, resampler.flush())
            notes, bit_depth = track.notes, track.form.bit_depth
        frames, peak = file.written.frames, file.written.peak
        write_wav(mixture, _scaled(raw, peak, cancel), channels=2)
        raw.unlink()
    except OSError as error:
        raise disk_error(error) from error
    bits = stem_depth(bit_depth, peak)
    return Mixture(mixture, peak, frames, notes, track.sample_rate, resampler.received, bits)


def _append(file: WavWriter, block: Samples) -> None:
    if not math.isfinite(file.write(block)):  # the conversion of the rate can exceed the range of float32
        raise audio_corrupt("the source has samples that are too large")


def _scaled(raw: Path, peak: float, cancel: CancelToken) -> Iterator[Samples]:
    for block in read_blocks(raw):
        cancel.raise_if_set()
        # A division, because the reciprocal of the smallest peaks is infinite, and because peak / peak is exactly 1.
        yield block / np.float32(peak) if peak else block
