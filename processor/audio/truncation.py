"""Whether a file ends where its format has an end, where no header tells how long it is: Ogg, and MP4 in fragments.

Sources: RFC 3533, 6, for the pages of Ogg; ISO/IEC 14496-12, 4.2 and 8.8, for the boxes of MP4.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from processor.audio.declared_size import boxes, is_mp4

#: Of a page of Ogg, bytes.
_PAGE_HEADER = 27
#: With a table of 255 lengths, and as many segments of at most 255 bytes.
_LARGEST_PAGE = _PAGE_HEADER + 255 + 255 * 255
#: The flag of the page that is the last one of its stream.
_LAST_PAGE = 4


def ends_complete(file: BinaryIO) -> bool:
    """False if the file's last page is not an end, or its last fragment is not all there; True of every other format.

    A file that was cut off is such a one, but so is a recording that nobody has completed. Moves the file's position.
    """
    file.seek(0)
    head = file.read(8)
    if is_mp4(head):
        return _has_whole_boxes(file)
    return head[:4] != b"OggS" or _has_last_page(file)


def _has_whole_boxes(file: BinaryIO) -> bool:
    there = file.seek(0, os.SEEK_END)
    return not any(kind in (b"moof", b"mdat") and end is not None and end > there for kind, end in boxes(file))


def _has_last_page(file: BinaryIO) -> bool:
    there = file.seek(0, os.SEEK_END)
    file.seek(max(0, there - _LARGEST_PAGE))
    rest = file.read()
    page = rest[rest.rfind(b"OggS") :]
    if len(page) < _PAGE_HEADER:
        return False
    segments = page[_PAGE_HEADER - 1]
    lengths = page[_PAGE_HEADER : _PAGE_HEADER + segments]
    return bool(page[5] & _LAST_PAGE) and len(page) >= _PAGE_HEADER + segments + sum(lengths)
