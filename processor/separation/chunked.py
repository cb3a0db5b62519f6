"""A song in chunks that overlap, each separated as a song of its own: what is in memory is as long as a chunk.

Where two chunks overlap, one fades out and the other fades in, evenly and together: the weights add up to one. Both
have heard the same song there, so their stems are nearly the same signal, which a fade of equal power would raise by up
to 3 dB; and stems that add up to the mixture in each chunk still do so. What a network hears of a chunk's surroundings
is less than it would hear in the song: mostly at the chunk's ends, where its weight is next to nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile

from processor.audio.wav import BLOCK_FRAMES, SAMPLE_RATE, Samples, write_wav
from processor.separation.separator import OnProgress, ReducedSeparator, Separator, Write
from processor.separation.stems import StemMissingError

#: What two chunks have in common, frames.
OVERLAP = 2 * SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a song. Positions in frames from the song's beginning."""

    start: int
    fade: int
    """Where it takes over from the chunk before, over the length of the overlap. Behind ``start`` in the last chunk,
    which is as long as the others and ends with the song."""
    end: int


def chunk_bounds(frames: int, size: int, overlap: int) -> list[Chunk]:
    """A song of so many ``frames`` in chunks of ``size``, at least twice the overlap; a shorter song is one chunk."""
    fades = range(0, max(1, frames - overlap), size - overlap)
    ends = (min(fade + size, frames) for fade in fades)
    return [Chunk(max(0, end - size), fade, end) for fade, end in zip(fades, ends, strict=True)]


class ChunkedSeparator:
    """Any driver, chunk by chunk."""

    def __init__(self, separator: Separator, size: int) -> None:
        """``size``: of the chunks, frames."""
        self._separator, self._size = separator, size

    @property
    def device(self) -> str:
        """See ``Separator``."""
        return self._separator.device

    @property
    def stems(self) -> frozenset[str] | None:
        """See ``Separator``."""
        return self._separator.stems

    def only(self, wanted: Collection[str]) -> ChunkedSeparator:
        """See ``Separator``."""
        return ChunkedSeparator(self._separator.only(wanted), self._size)

    def lighter(self) -> ReducedSeparator | None:
        """See ``Separator``."""
        return None

    def separate(self, mixture: Path, write: Write, on_progress: OnProgress) -> None:
        """See ``Separator``. The chunk at work lies beside the mixture meanwhile."""
        chunks = chunk_bounds(soundfile.info(mixture).frames, self._size, OVERLAP)
        fades: dict[str, CrossFade] = {}

        def faded(name: str, block: Samples) -> None:
            if name not in fades:
                fades[name] = CrossFade(chunks, block.shape[1])
            write(name, fades[name].add(block))

        with TemporaryDirectory(prefix="chunk-", dir=mixture.parent) as folder:
            song = Path(folder) / "chunk.wav"
            for number, chunk in enumerate(chunks):
                _copy(mixture, chunk, song)
                self._separator.separate(song, faded, _share(on_progress, number, len(chunks)))
                for name, fade in fades.items():
                    fade.end_chunk(name)


class CrossFade:
    """One stem: takes the chunks' blocks in order and gives the song's, as far as no later chunk has a say in it."""

    def __init__(self, chunks: list[Chunk], channels: int, overlap: int = OVERLAP) -> None:
        self._chunks = chunks
        self._number = 0
        self._at = chunks[0].start
        self._rise = ((np.arange(overlap, dtype=np.float32) + np.float32(0.5)) / overlap)[:, np.newaxis]
        self._before = self._ending = np.zeros((overlap, channels), np.float32)

    def add(self, block: Samples) -> Samples:
        """The song's next ``(frames, channels)``, for the chunk's next; there may be none."""
        chunk, first = self._chunks[self._number], self._at
        self._at += len(block)
        block = block[max(0, chunk.fade - first) :]
        first = max(first, chunk.fade)
        if self._number:
            block = self._faded_in(block, first - chunk.fade)
        if self._number < len(self._chunks) - 1:
            block = self._held_back(block, first - (chunk.end - len(self._rise)))
        return block

    def end_chunk(self, name: str) -> None:
        """Nothing more comes of this chunk. Raises StemMissingError if the stem is not as long as the chunk."""
        chunk = self._chunks[self._number]
        if self._at != chunk.end:
            has, lasts = self._at - chunk.start, chunk.end - chunk.start
            raise StemMissingError(f"{name} has {has} samples of a chunk of {lasts}")
        self._number += 1
        if self._number < len(self._chunks):
            self._at = self._chunks[self._number].start
            self._before, self._ending = self._ending, self._before

    def _faded_in(self, block: Samples, offset: int) -> Samples:
        """``block``, which begins ``offset`` frames behind the beginning of the fade."""
        rise = self._rise[offset : offset + len(block)]
        before = self._before[offset : offset + len(block)]
        both = before * (1 - rise) + block[: len(rise)] * rise
        return np.concatenate((both, block[len(rise) :])) if len(rise) else block

    def _held_back(self, block: Samples, offset: int) -> Samples:
        """What of ``block`` is before the next chunk's fade; it begins ``offset`` frames behind that."""
        given = min(max(0, -offset), len(block))
        held = block[given : given + len(self._rise)]
        place = max(0, offset)
        self._ending[place : place + len(held)] = held[: max(0, len(self._ending) - place)]
        return block[:given]


def _copy(mixture: Path, chunk: Chunk, song: Path) -> None:
    with soundfile.SoundFile(mixture) as file:
        file.seek(chunk.start)
        blocks = file.blocks(BLOCK_FRAMES, frames=chunk.end - chunk.start, dtype="float32", always_2d=True)
        write_wav(song, blocks, file.channels)


def _share(on_progress: OnProgress, number: int, chunks: int) -> OnProgress:
    """Of the whole, for chunk ``number``."""
    return lambda fraction: on_progress((number + fraction) / chunks)
