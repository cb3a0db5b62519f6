"""Whether the audio of a file is encrypted, as the file's own index tells.

ffmpeg does not: it decodes what it has no key for, to noise or to an error.

Sources: ISO/IEC 14496-12 (boxes, sample descriptions) and 23001-7 (Common Encryption) for MP4; RFC 8794 (EBML) and
RFC 9559 for Matroska and WebM; Advanced Systems Format 1.20, 2.1 and 3.14, for ASF.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO
from uuid import UUID

#: Places of one file that are looked at before the search is given up: a hostile file could name very many.
_MOST_READS = 100_000

_ASF = UUID("75b22630-668e-11cf-a6d9-00aa0062ce6c").bytes_le
_ASF_ENCRYPTION = {
    UUID("2211b3fb-bd23-11d2-b4b7-00a0c955fc6e").bytes_le,
    UUID("298ae614-2622-4c17-b935-dae07ee9289c").bytes_le,  # "extended"
}
_EBML = b"\x1a\x45\xdf\xa3"
_AUDIBLE = b"\x57\x90\x75\x36"
#: Sample descriptions of MP4 that stand for encrypted audio.
_MP4 = {b"enca": "Common Encryption", b"drms": "FairPlay", b"aavd": "Audible", b"aavx": "Audible"}


def drm_scheme(file: BinaryIO) -> str | None:
    """By what the first audio track is encrypted; None if it is not, or if the file does not tell."""
    index = _Index(file)
    head = index.read(0, 16)
    if head.startswith(_EBML):
        return _of_matroska(index)
    if head == _ASF:
        return _of_asf(index)
    if head[4:8] == _AUDIBLE:
        return "Audible"
    # The first box of an MP4 is most often ``ftyp``, but QuickTime's need have none.
    return _of_mp4(index) if head[4:8].isalpha() else None


@dataclass(frozen=True, slots=True)
class _Part:
    """A box or an element: what its format names it by, and where its content is, in bytes."""

    kind: bytes
    start: int
    end: int


class _Index:
    """A file that is read here and there."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = _MOST_READS
        self.whole = _Part(b"", 0, os.fstat(file.fileno()).st_size)

    def read(self, place: int, size: int) -> bytes:
        """What there is at ``place``; nothing once the search is to be given up."""
        self._left -= 1
        if self._left < 0 or place >= self.whole.end:
            return b""
        self._file.seek(place)
        return self._file.read(size)


def _of_mp4(index: _Index) -> str | None:
    for track in _inside(index, index.whole, b"moov", b"trak"):
        if _handler(index, track) == b"soun":
            return next((_MP4[kind] for kind in _descriptions(index, track) if kind in _MP4), None)
    return None


def _handler(index: _Index, track: _Part) -> bytes:
    box = next(_inside(index, track, b"mdia", b"hdlr"), None)
    return index.read(box.start + 8, 4) if box else b""


def _descriptions(index: _Index, track: _Part) -> Iterator[bytes]:
    """What the track's samples are."""
    for table in _inside(index, track, b"mdia", b"minf", b"stbl", b"stsd"):
        # Version, flags and the number of descriptions stand before them.
        for entry in _boxes(index, _Part(b"", table.start + 8, table.end)):
            yield entry.kind


def _inside(index: _Index, outer: _Part, *path: bytes) -> Iterator[_Part]:
    """The boxes at ``path`` below ``outer``."""
    for box in _boxes(index, outer):
        if box.kind == path[0]:
            yield from _inside(index, box, *path[1:]) if path[1:] else (box,)


def _boxes(index: _Index, outer: _Part) -> Iterator[_Part]:
    place = outer.start
    while place < outer.end:
        head = index.read(place, 16)
        size, kind, start = int.from_bytes(head[:4], "big"), head[4:8], place + 8
        if size == 1:
            size, start = int.from_bytes(head[8:], "big"), place + 16
        end = place + size if size else outer.end
        if len(kind) < 4 or not start <= end <= outer.end:
            return
        yield _Part(kind, start, end)
        place = end


_SEGMENT, _TRACKS, _TRACK = b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\xae"
_TRACK_TYPE, _AUDIO = b"\x83", b"\x02"
_ENCRYPTION = (b"\x6d\x80", b"\x62\x40", b"\x50\x35")


def _of_matroska(index: _Index) -> str | None:
    for track in _within(index, index.whole, _SEGMENT, _TRACKS, _TRACK):
        types = (index.read(kind.start, min(kind.end - kind.start, 8)) for kind in _within(index, track, _TRACK_TYPE))
        if any(value.lstrip(b"\0") == _AUDIO for value in types):
            return "WebM encryption" if any(True for _ in _within(index, track, *_ENCRYPTION)) else None
    return None


def _within(index: _Index, outer: _Part, *path: bytes) -> Iterator[_Part]:
    """The elements at ``path`` below ``outer``."""
    for element in _elements(index, outer):
        if element.kind == path[0]:
            yield from _within(index, element, *path[1:]) if path[1:] else (element,)


def _elements(index: _Index, outer: _Part) -> Iterator[_Part]:
    place = outer.start
    while place < outer.end:
        head = index.read(place, 12)
        kind = head[: _width(head)]
        number = head[len(kind) :]
        width = _width(number)
        if not kind or not width or len(number) < width:
            return
        start = place + len(kind) + width
        size = _size(number[:width])
        end = outer.end if size is None else min(start + size, outer.end)
        yield _Part(kind, start, end)
        place = end


def _width(data: bytes) -> int:
    """How many bytes the number takes that ``data`` begins with; 0 if there is none. RFC 8794, 4."""
    return 9 - data[0].bit_length() if data and data[0] else 0


def _size(number: bytes) -> int | None:
    """Of an element, in bytes; None if it is not known."""
    most = (1 << 7 * len(number)) - 1
    size = int.from_bytes(number, "big") & most
    return None if size == most else size


def _of_asf(index: _Index) -> str | None:
    place, end = 30, int.from_bytes(index.read(16, 8), "little")
    while place < end:
        head = index.read(place, 24)
        size = int.from_bytes(head[16:], "little")
        if head[:16] in _ASF_ENCRYPTION:
            return "Windows Media"
        if len(head) < 24 or size < 24:
            return None
        place += size
    return None
