"""Read the elements of EBML, of which Matroska and WebM consist. Source: RFC 8794, 4 to 7."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class Element:
    """The identifier of an element, and the place of its content."""

    kind: bytes
    start: int
    size: int | None
    """Bytes; None if it is not known: the element ends where its parent or a sibling does."""


def element_at(file: BinaryIO, offset: int) -> Element | None:
    """Return the element whose header is at ``offset``; None if none begins there. Moves the file's position."""
    file.seek(offset)
    return parse_element(file.read(12), offset)


def parse_element(head: bytes, offset: int) -> Element | None:
    """Return the element whose header ``head`` begins with, at ``offset`` in the file."""
    kind = head[: _vint_width(head)]
    number = head[len(kind) :]
    width = _vint_width(number)
    if not 1 <= len(kind) <= 4 or not width or len(number) < width:
        return None
    unknown = (1 << 7 * width) - 1
    size = int.from_bytes(number[:width], "big") & unknown
    return Element(kind, offset + len(kind) + width, None if size == unknown else size)


def _vint_width(data: bytes) -> int:
    """Return the width in bytes of the variable-size integer at the start of ``data``; 0 if none. RFC 8794, 4."""
    return 9 - data[0].bit_length() if data and data[0] else 0
