"""Check the end of formats whose header declares no length: Ogg, and fragmented MP4.

Sources: RFC 3533, 6, for the pages of Ogg; ISO/IEC 14496-12, 4.2 and 8.8, for the boxes of MP4.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from processor.audio.formats.declared_size import boxes, is_mp4

#: The size of the header of an Ogg page, bytes.
_PAGE_HEADER = 27
#: The size of the largest page: a table of 255 lengths, and 255 segments of at most 255 bytes.
_MAX_PAGE = _PAGE_HEADER + 255 + 255 * 255
#: The flag of the last page of a stream.
_LAST_PAGE = 4


def ends_complete(file: BinaryIO) -> bool:
    """Return False if an Ogg lacks its last page, or a fragmented MP4 a part of its last fragment.

    Returns True for every other format. A file that was cut off gives False, and so does a recording that was never
    finished. Moves the file's position.
    """
    file.seek(0)
    head = file.read(8)
    size = file.seek(0, os.SEEK_END)
    if is_mp4(head):
        return not any(kind in (b"moof", b"mdat") and end is not None and end > size for kind, end in boxes(file))
    return head[:4] != b"OggS" or _has_last_page(file, size)


def _has_last_page(file: BinaryIO, size: int) -> bool:
    file.seek(max(0, size - _MAX_PAGE))
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < _PAGE_HEADER:
        return False
    segments = page[_PAGE_HEADER - 1]
    lengths = page[_PAGE_HEADER : _PAGE_HEADER + segments]
    return bool(page[5] & _LAST_PAGE) and len(page) >= _PAGE_HEADER + segments + sum(lengths)
