"""Split a chain of songs into its links: Ogg streams one after another (RFC 3533, 4), or joined FLAC files.

The links may differ in codec, sample rate and channels, which ffmpeg's libraries do not decode as one file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from processor.audio.formats.byte_ranges import Range, find, size_of
from processor.audio.formats.damage import ogg_pages

#: The start of a FLAC: the marker, and the header of the STREAMINFO block, which may be the last block.
_FLAC_STARTS = (b"fLaC\0\0\0\x22", b"fLaC\x80\0\0\x22")
#: The number of links that are decoded.
MAX_LINKS = 1_000


def links(file: BinaryIO) -> list[Range]:
    """Return the range of bytes of each link; one range for every other file. Moves the file's position."""
    size = size_of(file)
    file.seek(0)
    head = file.read(4)
    starts = [0]
    if head == b"OggS":
        starts = [0, *_ogg_starts(file)]
    elif head == b"fLaC":
        starts = [0, *_flac_starts(file)]
    del starts[MAX_LINKS:]
    return list(zip(starts, [*starts[1:], size], strict=True))


def _ogg_starts(file: BinaryIO) -> Iterator[int]:
    """Yield the offset of each first page of a stream that follows pages of other streams."""
    was_first = True
    for page in ogg_pages(file):
        if page.is_first and not was_first and page.is_intact:
            yield page.offset
        was_first = page.is_first


def _flac_starts(file: BinaryIO) -> Iterator[int]:
    offset, end = 1, size_of(file)
    while offset < end:
        offset = min(find(file, marker, offset) for marker in _FLAC_STARTS)
        if offset < end:
            yield offset
        offset += 1
