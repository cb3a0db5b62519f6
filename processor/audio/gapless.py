"""Remove the padding after a song, which fills its codec's last frame, where the file declares its size.

An MP4 declares it in two ways (ISO/IEC 14496-12): by the duration of the last packet (8.6.1.2), exact to the sample; or
by the length of the edit (8.6.6), in ticks of the movie's clock. ffmpeg omits the samples before an edit, and whole
packets after it, but returns the last packet in full length. A WAV of a codec other than PCM has the number of samples
in its ``fact`` chunk (Multimedia Programming Interface and Data Specifications 1.0, "WAVE"), which ffmpeg does not use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from processor.audio.wav import Samples

#: The rounding error of a length, s: the coarsest movie clock in use has 600 ticks per second.
_TICK = 1 / 600
#: The number of frames that can consist of padding. More sound after the declared end is real: the header is wrong.
_MAX_PADDED_FRAMES = 3


@dataclass(frozen=True, slots=True)
class Block:
    """Decoded sound ``(frames, 2)`` at ``rate`` Hz."""

    samples: Samples
    rate: int
    start: float = 0.0
    """Its place in the song, s."""
    declared: int = 0
    """The number of its frames that belong to the song according to its packet; 0 if not declared."""

    @property
    def seconds(self) -> float:
        """The length in s."""
        return len(self.samples) / self.rate


def trim_last_packet(blocks: Iterable[Block], end: float | None) -> Iterator[Block]:
    """Yield the blocks of an MP4, the last one without its padding. ``end`` of the song, s; None if not known."""
    previous: Block | None = None
    for block in blocks:
        if previous is not None:
            yield previous
        previous = block
    if previous is not None:
        yield replace(previous, samples=previous.samples[: _unpadded_frames(previous, end)])


def _unpadded_frames(block: Block, end: float | None) -> int:
    frames = len(block.samples)
    if 0 < block.declared < frames or end is None:
        return min(block.declared or frames, frames)
    until_end = round((end - block.start) * block.rate)
    is_padded = 0 < until_end < frames - block.rate * _TICK
    return until_end if is_padded else frames


def trim_to_length(blocks: Iterable[Block], seconds: float) -> Iterator[Block]:
    """Yield the blocks up to ``seconds``, if not more than padding follows; otherwise all of them."""
    beyond: list[Block] = []
    for block in blocks:
        if block.start + block.seconds <= seconds:
            yield block
            continue
        beyond.append(block)
        if len(beyond) > _MAX_PADDED_FRAMES:
            yield from beyond
            beyond, seconds = [], float("inf")
    for block in beyond:
        frames = round((seconds - block.start) * block.rate)
        if frames > 0:
            yield replace(block, samples=block.samples[:frames])
