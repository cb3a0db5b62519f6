"""Find the frames of FLAC in a packet that ffmpeg could not split, because one of them is damaged.

Source: RFC 9639, 9.1, for the header of a frame; 8.2 for STREAMINFO.
"""

from __future__ import annotations

import re

#: Sync code and block strategy; then everything but reserved values of block size, sample rate, channels and depth.
_HEADER = re.compile(rb"(?=\xff[\xf8\xf9][\x10-\xff][\x00-\xaf])", re.DOTALL)
#: The number of frames that one damaged packet can extend over.
_MAX_FRAMES = 64


def frame_starts(packet: bytes, streaminfo: bytes) -> list[tuple[int, int]]:
    """Return the offset in ``packet`` of each frame, and its first sample in the stream.

    Sound may look like a header with a valid checksum: a frame must have the format and nearly the number of the first.
    """
    block_size = int.from_bytes(streaminfo[2:4], "big")
    starts: list[tuple[int, int]] = []
    first = b""
    for match in _HEADER.finditer(packet):
        header = packet[match.start() : match.start() + 17]
        number = _frame_number(header)
        if number is None:
            continue
        is_variable = header[1] & 1
        sample = number if is_variable else number * block_size
        if not starts:
            first = header
        elif _form(header) != _form(first) or not 0 < sample - starts[-1][1] <= _MAX_FRAMES * block_size:
            continue
        starts.append((match.start(), sample))
    return starts


def _form(header: bytes) -> tuple[int, int, int]:
    """Return what is the same in all frames of a stream: block strategy, sample rate and sample size."""
    return header[1], header[2] & 0x0F, header[3] & 0x0E


def _frame_number(header: bytes) -> int | None:
    """Return the coded number of a frame or sample; None if the header is not valid."""
    if len(header) < 6 or header[2] & 0x0F == 0x0F or header[3] & 1:
        return None
    first = header[4]
    extra = max(8 - (first ^ 0xFF).bit_length() - 1, 0) if first & 0x80 else 0
    if first & 0xC0 == 0x80 or extra > 6 or len(header) < 6 + extra:
        return None
    number = first & (0x7F >> (extra + 1 if extra else 0))
    for byte in header[5 : 5 + extra]:
        if byte & 0xC0 != 0x80:
            return None
        number = number << 6 | byte & 0x3F
    end = 5 + extra + {6: 1, 7: 2}.get(header[2] >> 4, 0) + {12: 1, 13: 2, 14: 2}.get(header[2] & 0x0F, 0)
    return number if len(header) > end and _crc8(header[:end]) == header[end] else None


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ (0x07 if crc & 0x80 else 0)) & 0xFF
    return crc
