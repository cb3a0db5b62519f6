"""Decode a source file of any kind to the input of the models: 44.1 kHz stereo float32, peak exactly at full scale."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.cancellation import CancelToken
from pipeline.files import disk_error
from processor.audio.resampler import Resampler
from processor.audio.track import Track, open_track
from processor.audio.wav import SAMPLE_RATE, Samples, read_blocks, write_wav

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

    @property
    def duration(self) -> float:
        """The length in s."""
        return self.frames / SAMPLE_RATE


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
        with open_track(source) as track:
            written = write_wav(raw, _resampled(track, max_seconds, cancel), channels=2)
            track.require_whole()
            notes = track.notes
        write_wav(mixture, _scaled(raw, written.peak, cancel), channels=2)
        raw.unlink()
    except OSError as error:
        raise disk_error(error) from error
    return Mixture(mixture, written.peak, written.frames, notes)


def _resampled(track: Track, max_seconds: float, cancel: CancelToken) -> Iterator[Samples]:
    resampler: Resampler | None = None
    for block in track.blocks(max_seconds, cancel):
        resampler = resampler or Resampler(track.sample_rate, SAMPLE_RATE, channels=2)
        yield resampler.process(block)
    if resampler is not None:
        yield resampler.flush()


def _scaled(raw: Path, peak: float, cancel: CancelToken) -> Iterator[Samples]:
    for block in read_blocks(raw):
        cancel.raise_if_set()
        # A division, because the reciprocal of the smallest peaks is infinite, and because peak / peak is exactly 1.
        yield block / np.float32(peak) if peak else block
