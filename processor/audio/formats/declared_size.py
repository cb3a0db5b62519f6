"""Read the length in bytes that a file's own header declares.

ffmpeg accepts a truncated WAV or MP3 as complete, and cannot distinguish an MP4 whose index was lost with its end from
a file that is not audio.

Sources: Multimedia Programming Interface and Data Specifications 1.0 (IBM and Microsoft, 1991) and EBU Tech 3306 for
WAV and AVI; ISO/IEC 14496-12, 4.2, for MP4; ID3v2.4.0 structure, 3.1 and 5, and the layout of the "Xing" frame, which
LAME calls "Info" where the bit rate is constant, for MP3; Sony Wave64 1.0; Apple Core Audio Format Specification 1.0,
"Chunk Header"; au(5) of NeXT and Sun; Advanced Systems Format Specification 01.20.03, 3.2; Adobe Flash Video
File Format Specification 10.1, E.5.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

#: The smallest 32-bit placeholder: a writer to a pipe cannot go back to fill in the length, and leaves such a value.
_MIN_PLACEHOLDER = 0x7FFFF000
#: The smallest placeholder in formats with a 64-bit length.
_MIN_LONG_PLACEHOLDER = 0x7FFFFFFFFFFFF000
#: The 32-bit size of an RF64 file's data, whose real size is in another chunk.
_SIZE_ELSEWHERE = 0xFFFFFFFF
#: The first bytes of a Wave64 file, before its length.
_WAVE64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
#: The number of chunks or boxes after which the search ends.
_MAX_PARTS = 100_000


def declared_size(file: BinaryIO) -> int | None:
    """Return the length in bytes that the header declares; None if it declares none. Moves the file's position."""
    file.seek(0)
    head = file.read(24)
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return _wav_size(file)
    if head[:4] == b"caff":
        return _caf_size(file)
    if head[:16] == _ASF_HEADER:
        return _asf_size(file)
    if head[:3] == b"FLV":
        return _flv_size(file)
    if is_mp4(head):
        ends = [end for _, end in boxes(file)]
        return None if None in ends else ends[-1]
    return _size_in_head(head) or _mp3_size(file)


def has_sound_after_its_data(file: BinaryIO) -> bool:
    """Return True for a WAV whose declared size is too small: no further chunk begins where its data ends.

    Moves the file's position.
    """
    file.seek(0)
    head = file.read(12)
    size = _wav_size(file) if head[:4] == b"RIFF" and head[8:] == b"WAVE" else None
    if size is None or size >= file.seek(0, os.SEEK_END):
        return False
    for end in (size, size + size % 2):
        file.seek(end)
        rest = file.read(8)
        if len(rest) < 8 or not any(rest) or (rest[:4].isascii() and rest[:4].decode("latin-1").isprintable()):
            return False
    return True


def is_mp4(head: bytes) -> bool:
    """Return True if ``head``, the first 8 bytes or more, begins an MP4."""
    return head[4:8] == b"ftyp"


def boxes(file: BinaryIO) -> Iterator[tuple[bytes, int | None]]:
    """Yield the type and the end offset of each box of an MP4.

    The end is None for a box that extends to the end of the file. The end of the last box may exceed the file's size.
    """
    end, file_size = 0, file.seek(0, os.SEEK_END)
    for _ in range(_MAX_PARTS):
        if end >= file_size:
            return
        file.seek(end)
        head = file.read(8)
        size = _unpack(">I4x", head)
        if size == 1:
            size = _unpack(">Q", file.read(8))
        if size < 8:
            yield head[4:], None
            return
        end += size
        yield head[4:], end
    yield b"", None


def _size_in_head(head: bytes) -> int | None:
    """Return the size that AVI, Wave64 and au declare in their first bytes."""
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        size = _unpack("<I", head[4:8])
        return 8 + size if 0 < size < _MIN_PLACEHOLDER else None
    if head[:16] == _WAVE64:
        size = _unpack("<Q", head[16:])
        return size if 0 < size < _MIN_LONG_PLACEHOLDER else None
    if head[:4] == b".snd":
        offset, size = _unpack(">I", head[4:8]), _unpack(">I", head[8:12])
        return offset + size if 0 < size < _SIZE_ELSEWHERE else None
    return None


def _wav_size(file: BinaryIO) -> int | None:
    long_size = 0
    file.seek(12)
    for _ in range(_MAX_PARTS):
        head = file.read(8)
        if len(head) < 8:
            return None
        kind, size = struct.unpack("<4sI", head)
        start = file.tell()
        if kind == b"ds64":
            long_size = _unpack("<8xQ", file.read(16))
        elif kind == b"data" and size == _SIZE_ELSEWHERE and long_size:
            return start + long_size
        elif kind == b"data":
            return start + size if 0 < size < _MIN_PLACEHOLDER else None
        file.seek(start + size + size % 2)
    return None


def _caf_size(file: BinaryIO) -> int | None:
    file_size = file.seek(0, os.SEEK_END)
    file.seek(8)
    for _ in range(_MAX_PARTS):
        head = file.read(12)
        if len(head) < 12:
            return None
        kind, size = struct.unpack(">4sq", head)
        end = file.tell() + size
        if kind == b"data":
            return end if size > 0 else None
        if size < 0 or end > file_size:
            return None
        file.seek(end)
    return None


def _asf_size(file: BinaryIO) -> int | None:
    file_size = file.seek(0, os.SEEK_END)
    file.seek(30)
    for _ in range(_MAX_PARTS):
        head = file.read(24)
        if len(head) < 24:
            return None
        size = _unpack("<16xQ", head)
        if head[:16] == _ASF_FILE_PROPERTIES:
            declared, flags = struct.unpack("<16xQ40xI", file.read(68).ljust(68, b"\0"))
            return None if flags & 1 else declared or None  # flag 1: a broadcast, whose size is not known
        end = file.tell() - 24 + size
        if size < 24 or end > file_size:
            return None
        file.seek(end)
    return None


def _flv_size(file: BinaryIO) -> int | None:
    """Return the number ``filesize`` of the ``onMetaData`` object, near the start."""
    file.seek(0)
    name = b"\0\x08filesize\0"
    _, found, number = file.read(4096).partition(name)
    size = struct.unpack(">d", number[:8])[0] if found and len(number) >= 8 else 0.0
    return int(size) if 0 < size < _MIN_LONG_PLACEHOLDER else None


def _mp3_size(file: BinaryIO) -> int | None:
    start = 0
    file.seek(0)
    tag = file.read(10)
    if tag[:3] == b"ID3" and len(tag) == 10:
        size = sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
        footer = 10 if tag[5] & 0x10 else 0
        start = 10 + size + footer
    file.seek(start)
    frame = file.read(64)
    if len(frame) < 64 or frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0:
        return None
    # After the frame's header (4 bytes) and side information (32, 17 or 9 bytes, depending on version and channels).
    for offset in (36, 21, 13):
        if frame[offset : offset + 4] in (b"Xing", b"Info"):
            flags, first, second = struct.unpack_from(">III", frame, offset + 4)
            has_frames, has_bytes = flags & 1, flags & 2
            return start + (second if has_frames else first) if has_bytes else None
    return None


def _unpack(layout: str, data: bytes) -> int:
    """Return the one number in ``data``; 0 if the file ends before the number does."""
    return int(struct.unpack(layout, data)[0]) if len(data) == struct.calcsize(layout) else 0
