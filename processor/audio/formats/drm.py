"""Detect encrypted audio by the file's index.

ffmpeg does not detect it: without the key it decodes encrypted audio to noise or to an error.

Sources: ISO/IEC 14496-12 (boxes, sample descriptions) and 23001-7 (Common Encryption) for MP4; RFC 8794 (EBML) and
RFC 9559 for Matroska and WebM; Advanced Systems Format 1.20, 2.1 and 3.14, for ASF.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO
from uuid import UUID

from processor.audio.formats.byte_ranges import size_of
from processor.audio.formats.ebml import parse_element

#: The number of reads after which the search ends: a hostile file could have very many boxes.
_MAX_READS = 100_000

_ASF = UUID("75b22630-668e-11cf-a6d9-00aa0062ce6c").bytes_le
_ASF_ENCRYPTION = {
    UUID("2211b3fb-bd23-11d2-b4b7-00a0c955fc6e").bytes_le,
    UUID("298ae614-2622-4c17-b935-dae07ee9289c").bytes_le,  # "extended"
}
_EBML = b"\x1a\x45\xdf\xa3"
_AUDIBLE = b"\x57\x90\x75\x36"
#: The sample descriptions of MP4 that mean encrypted audio.
_MP4_SCHEMES = {b"enca": "Common Encryption", b"drms": "FairPlay", b"aavd": "Audible", b"aavx": "Audible"}


def drm_scheme(file: BinaryIO) -> str | None:
    """Return the name of the first audio track's encryption; None if it is not encrypted or the file has no index."""
    index = _Index(file)
    head = index.read(0, 16)
    if head.startswith(_EBML):
        return _matroska_scheme(index)
    if head == _ASF:
        return _asf_scheme(index)
    if head[4:8] == _AUDIBLE:
        return "Audible"
    # The first box of an MP4 usually is ``ftyp``, but a QuickTime file need not have it.
    return _mp4_scheme(index) if head[4:8].isalpha() else None


@dataclass(frozen=True, slots=True)
class _Node:
    """A box or an element: the identifier of its type, and the range of its content in bytes."""

    kind: bytes
    start: int
    end: int


class _Index:
    """Random access to a file, with a limited number of reads."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._reads_left = _MAX_READS
        self.root = _Node(b"", 0, size_of(file))

    def read(self, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes at ``offset``; nothing once the limit of reads is reached."""
        self._reads_left -= 1
        if self._reads_left < 0 or offset >= self.root.end:
            return b""
        self._file.seek(offset)
        return self._file.read(size)


_Children = Callable[[_Index, _Node], Iterator[_Node]]


def _find(children: _Children, index: _Index, parent: _Node, *path: bytes) -> Iterator[_Node]:
    """Yield the nodes at ``path`` below ``parent``."""
    for node in children(index, parent):
        if node.kind == path[0]:
            yield from _find(children, index, node, *path[1:]) if path[1:] else (node,)


def _mp4_scheme(index: _Index) -> str | None:
    for track in _find(_boxes, index, index.root, b"moov", b"trak"):
        handler = next(_find(_boxes, index, track, b"mdia", b"hdlr"), None)
        if handler is None or index.read(handler.start + 8, 4) != b"soun":
            continue
        for table in _find(_boxes, index, track, b"mdia", b"minf", b"stbl", b"stsd"):
            # Version, flags and the number of descriptions precede the descriptions.
            for entry in _boxes(index, _Node(b"", table.start + 8, table.end)):
                if entry.kind in _MP4_SCHEMES:
                    return _MP4_SCHEMES[entry.kind]
        return None
    return None


def _boxes(index: _Index, parent: _Node) -> Iterator[_Node]:
    """Yield the boxes of an MP4 directly below ``parent``."""
    offset = parent.start
    while offset < parent.end:
        head = index.read(offset, 16)
        size, kind, start = int.from_bytes(head[:4], "big"), head[4:8], offset + 8
        if size == 1:
            size, start = int.from_bytes(head[8:], "big"), offset + 16
        end = offset + size if size else parent.end
        if len(kind) < 4 or not start <= end <= parent.end:
            return
        yield _Node(kind, start, end)
        offset = end


_SEGMENT, _TRACKS, _TRACK = b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\xae"
_TRACK_TYPE, _AUDIO = b"\x83", b"\x02"
_ENCRYPTION = (b"\x6d\x80", b"\x62\x40", b"\x50\x35")


def _matroska_scheme(index: _Index) -> str | None:
    for track in _find(_elements, index, index.root, _SEGMENT, _TRACKS, _TRACK):
        types = _find(_elements, index, track, _TRACK_TYPE)
        values = (index.read(kind.start, min(kind.end - kind.start, 8)) for kind in types)
        if any(value.lstrip(b"\0") == _AUDIO for value in values):
            return "WebM encryption" if any(True for _ in _find(_elements, index, track, *_ENCRYPTION)) else None
    return None


def _elements(index: _Index, parent: _Node) -> Iterator[_Node]:
    """Yield the EBML elements directly below ``parent``. An element of unknown size extends to the end of it."""
    offset = parent.start
    while offset < parent.end:
        element = parse_element(index.read(offset, 12), offset)
        if element is None:
            return
        end = parent.end if element.size is None else min(element.start + element.size, parent.end)
        yield _Node(element.kind, element.start, end)
        offset = end


def _asf_scheme(index: _Index) -> str | None:
    offset, end = 30, int.from_bytes(index.read(16, 8), "little")
    while offset < end:
        head = index.read(offset, 24)
        size = int.from_bytes(head[16:], "little")
        if head[:16] in _ASF_ENCRYPTION:
            return "Windows Media"
        if len(head) < 24 or size < 24:
            return None
        offset += size
    return None
