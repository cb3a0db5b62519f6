"""Find the parts of an ADTS stream between its frames, which ffmpeg skips without an error.

Source: ISO/IEC 13818-7, 6.2, for the header of a frame.
"""

from __future__ import annotations

import re
from typing import BinaryIO

from processor.audio.formats.byte_ranges import size_of

_HEADER_SIZE = 7
#: Sync word, layer 0, and a sample rate that is not reserved.
_HEADER = re.compile(rb"\xff[\xf0\xf1\xf8\xf9][\x00-\x33\x40-\x73\x80-\xb3\xc0-\xf3]", re.DOTALL)
_WINDOW = 1 << 16


def skipped_parts(file: BinaryIO) -> list[tuple[int, int]]:
    """Return for each skipped part how many bytes of frames precede it, and its length in bytes.

    What is before the first frame or after the last one is no part. Moves the file's position.
    """
    size = size_of(file)
    parts: list[tuple[int, int]] = []
    offset = frames = 0
    while offset < size:
        start = _next_frame(file, offset)
        if start is None:
            break
        if start > offset and frames:
            parts.append((frames, start - offset))
        file.seek(start)
        length = _frame_length(file.read(_HEADER_SIZE))
        frames += length
        offset = start + length
    return parts


def _next_frame(file: BinaryIO, offset: int) -> int | None:
    file.seek(offset)
    head = file.read(_HEADER_SIZE)
    while head:
        match = _HEADER.search(head)
        if match and len(head) - match.start() >= _HEADER_SIZE:
            if _frame_length(head[match.start() :]) >= _HEADER_SIZE:
                return offset + match.start()
            offset += match.start() + 1
        else:
            offset += max(len(head) - _HEADER_SIZE + 1, 1)
        file.seek(offset)
        head = file.read(_WINDOW)
    return None


def _frame_length(header: bytes) -> int:
    """Return the length of a frame with its header, bytes; 0 if the header is cut off."""
    return (int.from_bytes(header[3:6], "big") >> 5 & 0x1FFF) if len(header) >= _HEADER_SIZE else 0
