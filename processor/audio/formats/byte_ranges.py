"""A file that consists of parts of another file, without a copy."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Sequence
from typing import Any, BinaryIO

#: The bytes that are searched at once.
_WINDOW = 1 << 20

Range = tuple[int, int]
"""The first byte, and the byte after the last one."""


def part_of(file: BinaryIO, ranges: Sequence[Range]) -> BinaryIO:
    """Return a file of the given ``ranges`` of ``file``, in their order; ``file`` itself if they are all of it.

    The caller keeps ``file`` open. Moves its position.
    """
    if list(ranges) == [(0, size_of(file))]:
        file.seek(0)
        return file
    return io.BufferedReader(_ByteRanges(file, ranges), buffer_size=1 << 16)


def size_of(file: BinaryIO) -> int:
    """Return the size of the file in bytes. Moves its position."""
    return file.seek(0, os.SEEK_END)


def find(file: BinaryIO, marker: bytes, offset: int) -> int:
    """Return the offset of the next ``marker``, or the size of the file. Moves its position."""
    file.seek(offset)
    while window := file.read(_WINDOW):
        place = window.find(marker)
        if place >= 0:
            return offset + place
        if len(window) < _WINDOW:
            break
        offset += len(window) - len(marker) + 1
        file.seek(offset)
    return size_of(file)


class _ByteRanges(io.RawIOBase):
    def __init__(self, file: BinaryIO, ranges: Sequence[Range]) -> None:
        self._file = file
        self._ranges = ranges
        self._size = sum(end - start for start, end in ranges)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        offset = self._position
        for start, end in self._ranges:
            if offset < end - start:
                self._file.seek(start + offset)
                data = self._file.read(min(len(view), end - start - offset))
                view[: len(data)] = data
                self._position += len(data)
                return len(data)
            offset -= end - start
        return 0
