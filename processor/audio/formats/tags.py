"""Find the tags around and between the sound: titles, pictures and lyrics, in ID3v1, ID3v2 and APE format.

ffmpeg skips an ID3v2 tag only in front of formats that usually have one, and takes a tag between two joined MP3 files
for damaged sound.

Sources: ID3v2.4.0 structure, 3.1, 3.4 and 5; ID3v1; APE tag version 2, header and footer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from processor.audio.formats.byte_ranges import Range, size_of

_ID3V2_HEADER = 10
_ID3V1_SIZE = 128
_APE_HEADER = 32
#: The number of tags in a row that are skipped.
_MAX_TAGS = 16
#: An ID3v2 header: version, revision, flags, and a size of four bytes below 128.
_ID3V2 = re.compile(rb"ID3[\x02-\x04][\x00-\x0f].[\x00-\x7f]{4}", re.DOTALL)
_ANY_TAG = re.compile(rb"ID3[\x02-\x04]|TAG|APETAGEX")
#: The first bytes of formats without a length of their own, whose last tag would be taken for sound.
_WITHOUT_LENGTH = (b"fLaC", b"TTA1", b"wvpk", b"MAC ", b"\x0b\x77", b"#!AMR", b".snd")
#: The bytes that are searched at once for tags between joined files.
_WINDOW = 1 << 20


def sound_ranges(file: BinaryIO) -> list[Range]:
    """Return the ranges of ``file`` without its tags, or all of it if it has nothing else. Moves its position."""
    size = size_of(file)
    start = _skip_tags(file, 0)
    head = _read(file, start, 8)
    if not head:
        return [(0, size)]
    if not _is_mpeg(head) and not head.startswith(_WITHOUT_LENGTH):
        return [(start, size)]
    end = max(_last_sound(file, start, size), start)
    ranges = []
    for tag_start, tag_end in _joined_tags(file, start, end) if _is_mpeg(head) else ():
        ranges.append((start, tag_start))
        start = tag_end
    return [*ranges, (start, end)]


def _skip_tags(file: BinaryIO, start: int) -> int:
    """Return the offset after the tags that begin at ``start``."""
    for _ in range(_MAX_TAGS):
        head = _read(file, start, _APE_HEADER)
        size = _ID3V1_SIZE if head.startswith(b"TAG") else _id3v2_size(head) or _ape_size(head)
        if not size:
            break
        start += size
    return start


def _last_sound(file: BinaryIO, start: int, end: int) -> int:
    for _ in range(_MAX_TAGS):
        footer = _read(file, max(end - _APE_HEADER, start), _APE_HEADER)
        if _read(file, max(end - _ID3V1_SIZE, start), 3) == b"TAG":
            end -= _ID3V1_SIZE
        elif 0 < _ape_size(footer) < end - start:
            end -= _ape_size(footer)
        else:
            break
    return end


def _joined_tags(file: BinaryIO, start: int, end: int) -> Iterator[Range]:
    """Yield the tags between joined MP3 or AAC files, each of which must end where a frame begins."""
    position = start
    while position < end:
        window = _read(file, position, min(_WINDOW, end - position))
        found = _ANY_TAG.search(window)
        if found is None:
            position += max(len(window) - _APE_HEADER, _APE_HEADER)
            continue
        tag = position + found.start()
        tag_end = _skip_tags(file, tag)
        if tag < tag_end < end and _is_mpeg(_read(file, tag_end, 2)):
            yield tag, tag_end
        position = max(tag_end, tag + 1)


def _id3v2_size(head: bytes) -> int:
    """Return the size of the tag with its header and footer, bytes; 0 if ``head`` is not the header of a tag."""
    if not _ID3V2.match(head):
        return 0
    size = sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    return _ID3V2_HEADER + size + (_ID3V2_HEADER if head[5] & 0x10 else 0)


def _ape_size(head: bytes) -> int:
    """Return the size of a tag by its header or footer of 32 bytes; 0 if ``head`` is not one."""
    if len(head) < _APE_HEADER or not head.startswith(b"APETAGEX"):
        return 0
    size, flags = int.from_bytes(head[12:16], "little"), int.from_bytes(head[20:24], "little")
    has_header = flags >> 31 or flags >> 29 & 1  # as a header itself, the flag states it
    return size + (_APE_HEADER if has_header else 0)


def _is_mpeg(head: bytes) -> bool:
    """Return True for the sync word of MPEG audio or ADTS."""
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)
