"""What a file's own header says about its length in bytes.

ffmpeg takes what is there for the whole where a WAV or an MP3 was cut off, and cannot tell an MP4 whose index was
lost with its end from something that never was audio.

Sources: Multimedia Programming Interface and Data Specifications 1.0 (IBM and Microsoft, 1991) and EBU Tech 3306 for
WAV and AVI; ISO/IEC 14496-12, 4.2, for MP4; ID3v2.4.0 structure, 3.1 and 5, and the layout of the "Xing" frame, which
LAME calls "Info" where the bit rate is constant, for MP3; Sony Wave64 1.0; Apple Core Audio Format Specification 1.0,
"Chunk Header"; au(5) of NeXT and Sun; Advanced Systems Format Specification 01.20.03, 3.2.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

#: Writers to a pipe, which cannot come back to fill in the length, leave one of many values from here on.
_LEAST_PLACEHOLDER = 0x7FFFF000
#: And where the length has 64 bits.
_LEAST_LONG_PLACEHOLDER = 0x7FFFFFFFFFFFF000
#: The 32-bit size of an RF64's data, whose true one stands in another chunk.
_ELSEWHERE = 0xFFFFFFFF
#: What a Wave64 file begins with, before its length.
_WAVE64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
#: Chunks or boxes that are looked at before the search is given up.
_MOST_PARTS = 100_000


def declared_size(file: BinaryIO) -> int | None:
    """How long the file is by its own account; None if it gives none. Moves the file's position."""
    file.seek(0)
    head = file.read(24)
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return _end_of_wav(file)
    if head[:4] == b"caff":
        return _end_of_caf(file)
    if head[:16] == _ASF_HEADER:
        return _end_of_asf(file)
    if is_mp4(head):
        return _end_of_mp4(file)
    return _told_at_once(head) or _end_of_mp3(file)


def is_mp4(head: bytes) -> bool:
    """By its first 8 bytes."""
    return head[4:8] == b"ftyp"


def boxes(file: BinaryIO) -> Iterator[tuple[bytes, int | None]]:
    """Kind of each box of an MP4, and where it ends; None for one that goes up to the end of the file, wherever that
    is. The last one may end behind it."""
    end, there = 0, file.seek(0, os.SEEK_END)
    for _ in range(_MOST_PARTS):
        if end >= there:
            return
        file.seek(end)
        head = file.read(8)
        size = _unpacked(">I4x", head)
        if size == 1:
            size = _unpacked(">Q", file.read(8))
        if size < 8:
            yield head[4:], None
            return
        end += size
        yield head[4:], end
    yield b"", None


def _told_at_once(head: bytes) -> int | None:
    """By AVI, Wave64 and au."""
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        size = _unpacked("<I", head[4:8])
        return 8 + size if 0 < size < _LEAST_PLACEHOLDER else None
    if head[:16] == _WAVE64:
        size = _unpacked("<Q", head[16:])
        return size if 0 < size < _LEAST_LONG_PLACEHOLDER else None
    if head[:4] == b".snd":
        offset, size = _unpacked(">I", head[4:8]), _unpacked(">I", head[8:12])
        return offset + size if 0 < size < _ELSEWHERE else None
    return None


def _end_of_wav(file: BinaryIO) -> int | None:
    long_size = 0
    file.seek(12)
    for _ in range(_MOST_PARTS):
        head = file.read(8)
        if len(head) < 8:
            return None
        kind, size = struct.unpack("<4sI", head)
        start = file.tell()
        if kind == b"ds64":
            long_size = _unpacked("<8xQ", file.read(16))
        elif kind == b"data" and size == _ELSEWHERE and long_size:
            return start + long_size
        elif kind == b"data":
            return start + size if 0 < size < _LEAST_PLACEHOLDER else None
        file.seek(start + size + size % 2)
    return None


def _end_of_caf(file: BinaryIO) -> int | None:
    there = file.seek(0, os.SEEK_END)
    file.seek(8)
    for _ in range(_MOST_PARTS):
        head = file.read(12)
        if len(head) < 12:
            return None
        kind, size = struct.unpack(">4sq", head)
        end = file.tell() + size
        if kind == b"data":
            return end if size > 0 else None
        if size < 0 or end > there:
            return None
        file.seek(end)
    return None


def _end_of_asf(file: BinaryIO) -> int | None:
    there = file.seek(0, os.SEEK_END)
    file.seek(30)
    for _ in range(_MOST_PARTS):
        head = file.read(24)
        if len(head) < 24:
            return None
        size = _unpacked("<16xQ", head)
        if head[:16] == _ASF_FILE_PROPERTIES:
            told, flags = struct.unpack("<16xQ40xI", file.read(68).ljust(68, b"\0"))
            return None if flags & 1 else told or None  # of a broadcast, it is not known
        end = file.tell() - 24 + size
        if size < 24 or end > there:
            return None
        file.seek(end)
    return None


def _end_of_mp4(file: BinaryIO) -> int | None:
    end: int | None = 0
    for _, end in boxes(file):
        if end is None:
            return None
    return end


def _end_of_mp3(file: BinaryIO) -> int | None:
    start = _end_of_id3(file)
    file.seek(start)
    frame = file.read(64)
    if len(frame) < 64 or frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0:
        return None
    # Behind the frame's header (4 bytes) and side information (32, 17 or 9, by version and channels).
    for offset in (36, 21, 13):
        if frame[offset : offset + 4] in (b"Xing", b"Info"):
            flags, first, second = struct.unpack_from(">III", frame, offset + 4)
            has_frames, has_bytes = flags & 1, flags & 2
            return start + (second if has_frames else first) if has_bytes else None
    return None


def _end_of_id3(file: BinaryIO) -> int:
    file.seek(0)
    head = file.read(10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    footer = 10 if head[5] & 0x10 else 0
    return 10 + size + footer


def _unpacked(form: str, data: bytes) -> int:
    """The one number in ``data``; 0 if the file ends within."""
    return int(struct.unpack(form, data)[0]) if len(data) == struct.calcsize(form) else 0
