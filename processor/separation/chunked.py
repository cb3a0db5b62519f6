"""Separation of a song in overlapping chunks, each separated as a song of its own: memory depends on the chunk only.

Where two chunks overlap, a linear crossfade joins them: the weights add up to one. Both chunks contain the same song
there, so their stems are nearly the same signal, which an equal-power crossfade would raise by up to 3 dB. Stems that
add up to the mixture in each chunk still add up to it after the crossfade. A network has less context in a chunk than
in the whole song, mostly at the chunk's ends, where the weight is close to zero.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile

from processor.audio.wav import BLOCK_FRAMES, SAMPLE_RATE, Samples, write_wav
from processor.separation.separator import BaseSeparator, OnProgress, Separator, Write, partial_progress
from processor.separation.stems import StemMissingError

#: Overlap of two consecutive chunks, frames.
OVERLAP = 2 * SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a song. Positions are in frames from the song's beginning."""

    start: int
    fade: int
    """Start of the crossfade from the previous chunk, which lasts as long as the overlap. It is after ``start`` only in
    the last chunk, which is as long as the others and ends with the song."""
    end: int


def chunk_bounds(frames: int, size: int, overlap: int) -> list[Chunk]:
    """Divide a song of ``frames`` into chunks of ``size``, which must be at least twice the ``overlap``.

    All lengths are in frames. A song that is not longer than ``size`` is one chunk.
    """
    fades = range(0, max(1, frames - overlap), size - overlap)
    ends = (min(fade + size, frames) for fade in fades)
    return [Chunk(max(0, end - size), fade, end) for fade, end in zip(fades, ends, strict=True)]


class ChunkedSeparator(BaseSeparator):
    """Runs any separator over one chunk of the song at a time."""

    def __init__(self, separator: Separator, size: int) -> None:
        """``size``: length of a chunk, frames."""
        self._separator, self._size = separator, size
        self.device = separator.device
        self.stems = separator.stems

    def only(self, wanted: Collection[str]) -> ChunkedSeparator:
        """See ``Separator``."""
        return ChunkedSeparator(self._separator.only(wanted), self._size)

    def separate(self, mixture: Path, write: Write, on_progress: OnProgress) -> None:
        """See ``Separator``. Stores the current chunk in a temporary folder next to the mixture."""
        chunks = chunk_bounds(soundfile.info(mixture).frames, self._size, OVERLAP)
        crossfades: dict[str, CrossFade] = {}

        def write_faded(name: str, block: Samples) -> None:
            if name not in crossfades:
                crossfades[name] = CrossFade(chunks, block.shape[1])
            write(name, crossfades[name].add(block))

        with TemporaryDirectory(prefix="chunk-", dir=mixture.parent) as folder:
            chunk_file = Path(folder) / "chunk.wav"
            for number, chunk in enumerate(chunks):
                with soundfile.SoundFile(mixture) as song:
                    song.seek(chunk.start)
                    frames = chunk.end - chunk.start
                    blocks = song.blocks(BLOCK_FRAMES, frames=frames, dtype="float32", always_2d=True)
                    write_wav(chunk_file, blocks, song.channels)
                self._separator.separate(chunk_file, write_faded, partial_progress(on_progress, number, len(chunks)))
                for name, crossfade in crossfades.items():
                    crossfade.end_chunk(name)


class CrossFade:
    """Joins one stem's chunks: takes their blocks in order and returns the samples that are final."""

    def __init__(self, chunks: list[Chunk], channels: int, overlap: int = OVERLAP) -> None:
        """``overlap``: of two consecutive chunks, frames."""
        self._chunks = chunks
        self._number = 0
        self._position = chunks[0].start
        self._fade_in = ((np.arange(overlap, dtype=np.float32) + np.float32(0.5)) / overlap)[:, np.newaxis]
        #: The end of the previous chunk. Read at a chunk's beginning and overwritten at its end, which do not overlap.
        self._tail = np.zeros((overlap, channels), np.float32)

    def add(self, block: Samples) -> Samples:
        """Take the chunk's next ``(frames, channels)`` and return the song's next ones, which may be none.

        Frames of the overlap with the next chunk are held back until that chunk arrives.
        """
        chunk, first = self._chunks[self._number], self._position
        self._position += len(block)
        block = block[max(0, chunk.fade - first) :]
        first = max(first, chunk.fade)
        if self._number:
            offset = first - chunk.fade
            rise = self._fade_in[offset : offset + len(block)]
            tail = self._tail[offset : offset + len(block)]
            if len(rise):
                faded = tail * (1 - rise) + block[: len(rise)] * rise
                block = np.concatenate((faded, block[len(rise) :]))
        if self._number < len(self._chunks) - 1:
            offset = first - (chunk.end - len(self._fade_in))
            final = min(max(0, -offset), len(block))
            held = block[final : final + len(self._fade_in)]
            place = max(0, offset)
            self._tail[place : place + len(held)] = held[: max(0, len(self._tail) - place)]
            block = block[:final]
        return block

    def end_chunk(self, name: str) -> None:
        """Finish the chunk. Raises StemMissingError if the stem ``name`` is not as long as the chunk."""
        chunk = self._chunks[self._number]
        if self._position != chunk.end:
            received, expected = self._position - chunk.start, chunk.end - chunk.start
            raise StemMissingError(f"{name} has {received} samples of a chunk of {expected}")
        self._number += 1
        if self._number < len(self._chunks):
            self._position = self._chunks[self._number].start
