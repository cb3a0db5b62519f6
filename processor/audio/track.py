"""Decode the audio track of a source file block by block, with ffmpeg's libraries (PyAV)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np

from pipeline.cancellation import CancelToken
from processor.audio.container import open_container
from processor.audio.errors import audio_corrupt, audio_empty, audio_too_long, audio_truncated, too_much_damage
from processor.audio.formats.byte_ranges import part_of
from processor.audio.formats.links import links
from processor.audio.formats.tags import sound_ranges
from processor.audio.formats.truncation import ends_complete
from processor.audio.gapless import Block
from processor.audio.link import ChainLink, SampleFormat
from processor.audio.resampler import Resampler
from processor.audio.wav import Samples

__all__ = ["SampleFormat", "Track", "open_source", "open_track"]

#: The difference to the declared length from which a file counts as cut off, s.
_SHORTFALL = 0.5
#: The effect of codec frames and padding on a length, s. The client is informed if more is missing.
_ROUNDING = 0.1
#: The shortest change that is a note, s.
_AUDIBLE = 0.0005
_DELAY = "the sound begins after the start of the source: silence before it"
#: The damage that is replaced by silence, s and as a share of the song. With more of it the source is refused.
MAX_DAMAGE = 10.0
MAX_DAMAGED_SHARE = 0.1
#: The frames of the blocks that are returned, about.
_BLOCK_FRAMES = 1 << 14


class Track:
    """The first audio track of one open file, link by link.

    Consume ``blocks`` before ``notes`` and ``require_whole``.
    """

    def __init__(self, file: BinaryIO, first: ChainLink, others: Iterator[ChainLink]) -> None:
        self._file = file
        self._first = first
        self._others = others
        self._links = [first]
        self._frames = 0
        self.sample_rate = first.form.sample_rate
        """The rate of all blocks, Hz: that of the first decoded frame, until then the one that the header declares."""

    @property
    def form(self) -> SampleFormat:
        """The format that the header declares."""
        return self._first.form

    def require_supported(self, max_seconds: float) -> None:
        """Raise PermanentError if the header alone shows that the track is not supported or too long."""
        self._first.require_layout()
        seconds = self.form.seconds
        if seconds is not None and seconds > max_seconds:
            raise audio_too_long(max_seconds)

    def blocks(self, max_seconds: float, cancel: CancelToken) -> Iterator[Samples]:
        """Yield stereo blocks ``(frames, 2)``, float32, at ``sample_rate`` until the end of the stream.

        Raises PermanentError if the track is corrupt or longer than ``max_seconds``, CancelledError.
        """
        self.require_supported(max_seconds)
        for samples in _joined(self._at_one_rate(self._decoded(cancel))):
            self._frames += len(samples)
            if self._frames > max_seconds * self.sample_rate:
                raise audio_too_long(max_seconds)
            if not np.isfinite(samples).all():
                raise audio_corrupt("the source has samples that are not finite numbers")
            if self._lost > MAX_DAMAGE:
                raise too_much_damage(self._lost)
            yield samples

    @property
    def notes(self) -> tuple[str, ...]:
        """The changes and losses while decoding, in sentences for the client."""
        notes = []
        if self._first.tracks > 1:
            notes.append(f"the first of {self._first.tracks} audio tracks was taken")
        channels = max(link.channels for link in self._links)
        if channels > 2:
            notes.append(f"down-mixed from {channels} channels to stereo")
        for change, seconds in self._changes().items():
            if seconds > (_ROUNDING if change == _DELAY else _AUDIBLE):
                notes.append(f"{change}: {_length(seconds)}")
        missing = self._missing + self._first.shortfall
        if missing > self._first.rounding:
            notes.append(f"the source has less sound than its header declares: {_length(missing)}")
        damaged_parts = sum(link.damaged_parts for link in self._links)
        if damaged_parts:
            notes.append(f"checksums of the source are wrong: {damaged_parts}; what they belong to may be damaged")
        if any(link.had_errors and link.form.seconds is None for link in self._links):
            notes.append("damaged parts of the source could not be read, and were left out")
        if not ends_complete(self._file):
            notes.append("the source does not end as its format requires: it may be cut off")
        return tuple(notes)

    def require_whole(self) -> None:
        """Raise PermanentError if the track is empty, too damaged, or ends earlier than its file declares."""
        # A QuickTime file that refers to another one declares a length too.
        if not self._frames and (self._missing <= self._first.rounding or self.form.container == "mov"):
            raise audio_corrupt() if any(link.had_failures for link in self._links) else audio_empty()
        seconds = self._frames / self.sample_rate
        if self._missing > (_SHORTFALL if self._frames else 0.0):
            whole = seconds + self._missing
            raise audio_truncated(f"its header declares {whole:.1f} s, but it ends after {seconds:.1f} s")
        if self._lost > min(MAX_DAMAGE, MAX_DAMAGED_SHARE * seconds + _ROUNDING):
            raise too_much_damage(self._lost)

    def _changes(self) -> dict[str, float]:
        """Return the length of each kind of change, s."""
        lines = [link.timeline for link in self._links]
        return {
            _DELAY: sum(line.delay for line in lines),
            "silence was filled in where time stamps leave a gap": sum(line.gaps for line in lines),
            "overlapping parts of the source were left out": sum(line.overlaps for line in lines),
            "damaged parts of the source were replaced by silence": self._lost,
        }

    @property
    def _lost(self) -> float:
        return sum(link.timeline.lost for link in self._links)

    @property
    def _missing(self) -> float:
        return sum(link.missing for link in self._links)

    def _decoded(self, cancel: CancelToken) -> Iterator[Block]:
        try:
            yield from self._first.blocks(cancel)
            for link in self._others:
                self._links.append(link)
                yield from link.blocks(cancel)
        except (av.error.FFmpegError, ValueError) as error:
            raise audio_corrupt() from error

    def _at_one_rate(self, blocks: Iterator[Block]) -> Iterator[Samples]:
        """Yield the samples at the rate of the first block. The rate may change within a file (joined files)."""
        resampler: Resampler | None = None
        rate = 0
        for block in blocks:
            if not rate:
                self.sample_rate = block.rate
            if block.rate != rate:
                if resampler is not None:
                    yield resampler.flush()
                rate = block.rate
                resampler = Resampler(rate, self.sample_rate, channels=2)
            assert resampler is not None
            yield resampler.process(block.samples)
        if resampler is not None:
            yield resampler.flush()


def _length(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.95 else f"{seconds:.2g} s"


def _joined(blocks: Iterator[Samples]) -> Iterator[Samples]:
    """Join small blocks, because each block has a cost."""
    parts: list[Samples] = []
    frames = 0
    for block in blocks:
        parts.append(block)
        frames += len(block)
        if frames >= _BLOCK_FRAMES:
            yield np.concatenate(parts)
            parts, frames = [], 0
    if frames:
        yield np.concatenate(parts)


@contextmanager
def open_source(source: Path) -> Iterator[BinaryIO]:
    """Open a file without the tags around its sound. Raises OSError."""
    with source.open("rb") as file:
        yield part_of(file, sound_ranges(file))


@contextmanager
def open_track(source: Path) -> Iterator[Track]:
    """Open the audio track of ``source``.

    Raises PermanentError if the file is empty, not audio or cut off before its header can be read, and OSError.
    """
    with open_source(source) as file:
        ranges = links(file)
        first = part_of(file, ranges[:1])
        with open_container(first) as container:
            yield Track(file, ChainLink(first, container), _further_links(file, ranges[1:]))


def _further_links(file: BinaryIO, ranges: list[tuple[int, int]]) -> Iterator[ChainLink]:
    for part in ranges:
        link = part_of(file, [part])
        with open_container(link) as container:
            yield ChainLink(link, container)
