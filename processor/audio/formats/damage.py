"""Find damage that ffmpeg does not report: wrong checksums of Ogg and Matroska, and gaps in ADTS.

ffmpeg omits an Ogg page with a wrong checksum without an error, and does not compare those of Matroska's clusters.

Sources: RFC 3533, 6, for the pages of Ogg; RFC 8794, 11.3.1, for CRC-32 elements; RFC 9559, 5.1, for their parents.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from processor.audio.formats.adts import skipped_parts
from processor.audio.formats.byte_ranges import find, size_of
from processor.audio.formats.ebml import element_at

_PAGE_HEADER = 27
#: The flag of the first page of a logical stream.
_FIRST_PAGE = 2
#: Every byte with its bits in the opposite order: Ogg's CRC begins with the highest bit, zlib's with the lowest.
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"
_CLUSTER = b"\x1f\x43\xb6\x75"
_CRC32 = b"\xbf\x84"
_CRC32_SIZE = 6
#: The bytes that are read at once.
_WINDOW = 1 << 20


@dataclass(frozen=True, slots=True)
class OggPage:
    """One page of an Ogg."""

    offset: int
    is_first: bool
    """The first page of its logical stream."""
    is_intact: bool
    """Complete, and its checksum is right."""


def ogg_pages(file: BinaryIO) -> Iterator[OggPage]:
    """Yield the pages of an Ogg in order. Moves the file's position."""
    offset, size = 0, size_of(file)
    while offset < size:
        file.seek(offset)
        header = file.read(_PAGE_HEADER)
        if header[:4] != b"OggS" or len(header) < _PAGE_HEADER:
            offset = find(file, b"OggS", offset + 1)
            continue
        lengths = file.read(header[26])
        page = header + lengths + file.read(sum(lengths))
        is_intact = len(page) == _PAGE_HEADER + len(lengths) + sum(lengths) and _ogg_checksum(page) == page[22:26]
        yield OggPage(offset, bool(header[5] & _FIRST_PAGE), is_intact)
        # The length of a damaged page may be wrong too.
        offset = offset + len(page) if is_intact else find(file, b"OggS", offset + 4)


@dataclass(frozen=True, slots=True)
class Damage:
    """The parts of a file whose checksum is wrong."""

    parts: int = 0
    """The number of Ogg pages or Matroska clusters."""
    resumptions: frozenset[int] = frozenset()
    """The offsets of the intact Ogg pages that follow damaged ones."""
    skipped: tuple[tuple[int, int], ...] = ()
    """The parts of an ADTS stream that ffmpeg skips: the bytes of frames before each, and its bytes."""


def find_damage(file: BinaryIO) -> Damage:
    """Verify the checksums of an Ogg or a Matroska, and the frames of ADTS. Moves the file's position."""
    file.seek(0)
    head = file.read(4)
    if head == b"OggS":
        return _ogg_damage(file)
    if head[:1] == b"\xff":
        return Damage(skipped=tuple(skipped_parts(file)))
    return Damage(sum(not is_intact for is_intact in _clusters(file))) if head == _EBML else Damage()


def _ogg_damage(file: BinaryIO) -> Damage:
    parts, resumptions, was_intact = 0, set(), True
    for page in ogg_pages(file):
        if page.is_intact and not was_intact:
            resumptions.add(page.offset)
        parts += not page.is_intact
        was_intact = page.is_intact
    return Damage(parts, frozenset(resumptions))


def _ogg_checksum(page: bytes) -> bytes:
    """Return the checksum as it is stored: CRC-32 without inversion, of the page with zeros in the checksum's place."""
    content = (page[:22] + bytes(4) + page[26:]).translate(_REVERSED)
    crc = zlib.crc32(content, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return crc.to_bytes(4, "little").translate(_REVERSED)[::-1]


def _clusters(file: BinaryIO) -> Iterator[bool]:
    """Yield for each cluster of known size, and for each place where no element begins, whether it is intact."""
    offset, end = 0, size_of(file)
    while offset < end:
        element = element_at(file, offset)
        if element is None:
            yield False
            offset = find(file, _CLUSTER, offset + 1)
            continue
        if element.kind == _CLUSTER and element.size is not None and element.start + element.size <= end:
            file.seek(element.start)
            stored = file.read(_CRC32_SIZE)
            if stored.startswith(_CRC32) and element.size >= _CRC32_SIZE:
                yield _crc32(file, element.size - _CRC32_SIZE) == stored[len(_CRC32) :]
        # The children of a segment, or of an element of unknown size, follow directly.
        inside = element.kind == _SEGMENT or element.size is None
        offset = element.start if inside else element.start + (element.size or 0)


def _crc32(file: BinaryIO, size: int) -> bytes:
    """Return the CRC-32 of the next ``size`` bytes of the file as Matroska stores it."""
    crc = 0
    while size > 0:
        window = file.read(min(size, _WINDOW))
        crc = zlib.crc32(window, crc)
        size = size - len(window) if window else 0
    return crc.to_bytes(4, "little")
