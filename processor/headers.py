"""What a file's own header says about its length in bytes.

ffmpeg takes what is there for the whole where a WAV or an MP3 was cut off, and cannot tell an MP4 whose index was
lost with its end from something that never was audio.

Sources: Multimedia Programming Interface and Data Specifications 1.0 (IBM and Microsoft, 1991) and EBU Tech 3306 for
WAV; ISO/IEC 14496-12, 4.2, for MP4; ID3v2.4.0 structure, 3.1 and 5, and the layout of the "Xing" frame, which LAME
calls "Info" where the bit rate is constant, for MP3.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

#: Writers to a pipe, which cannot come back to fill in the length, leave one of many values from here on.
_LEAST_PLACEHOLDER = 0x7FFFF000
#: The 32-bit size of an RF64's data, whose true one stands in another chunk.
_ELSEWHERE = 0xFFFFFFFF
#: Chunks or boxes that are looked at before the search is given up.
_MOST_PARTS = 100_000


def announced_bytes(file: BinaryIO) -> int | None:
    """How long the file is by its own account; None if it gives none. Moves the file's position."""
    file.seek(0)
    head = file.read(12)
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:] == b"WAVE":
        return _end_of_wav(file)
    if head[4:8] == b"ftyp":
        return _end_of_mp4(file)
    return _end_of_mp3(file)


def _end_of_wav(file: BinaryIO) -> int | None:
    long_size = 0
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


def _end_of_mp4(file: BinaryIO) -> int | None:
    end, there = 0, file.seek(0, os.SEEK_END)
    for _ in range(_MOST_PARTS):
        if end >= there:
            return end
        file.seek(end)
        size = _unpacked(">I4x", file.read(8))
        if size == 1:
            size = _unpacked(">Q", file.read(8))
        if size < 8:  # 0: up to the end of the file, wherever that is
            return None
        end += size
    return None


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
