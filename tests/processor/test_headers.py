"""Headers come from outside: whatever they say, reading them ends, and raises nothing."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.headers import announced_bytes

MAGIC = (
    b"RIFF\0\0\0\0WAVE",
    b"RF64\xff\xff\xff\xffWAVEds64",
    b"\0\0\0\x10ftypisom\0\0\0\0",
    b"ID3\4\0\0",
    b"\xff\xfb\x90\x64" + bytes(32) + b"Info",
    b"",
)


def wav(*chunks: tuple[bytes, int, bytes]) -> bytes:
    body = b"".join(kind + struct.pack("<I", size) + content for kind, size, content in chunks)
    return b"RIFF" + bytes(4) + b"WAVE" + body


def box(kind: bytes, content: bytes, size: int | None = None) -> bytes:
    return struct.pack(">I", size or len(content) + 8) + kind + content


def mp3(flags: int, *fields: int, offset: int = 36) -> bytes:
    tag = b"Info" + struct.pack(f">{1 + len(fields)}I", flags, *fields)
    return (b"\xff\xfb\x90\x64" + bytes(offset - 4) + tag).ljust(100, b"\0")


FTYP = box(b"ftyp", b"isom" + bytes(4))


@given(st.sampled_from(MAGIC), st.binary(max_size=300))
def test_anything_can_be_asked(magic: bytes, rest: bytes) -> None:
    announced = announced_bytes(io.BytesIO(magic + rest))
    assert announced is None or announced >= 0


@pytest.mark.parametrize(
    ("content", "announced"),
    [
        (wav((b"fmt ", 16, bytes(16)), (b"data", 1000, b"")), 44 + 1000),
        (wav((b"LIST", 3, bytes(4)), (b"data", 1000, b"")), 32 + 1000),  # chunks are padded to even sizes
        (wav((b"fmt ", 16, bytes(16))), None),
        (wav((b"data", 0, b"")), None),
        (wav((b"data", 0xFFFFFFFF, b"")), None),
        (wav((b"ds64", 28, struct.pack("<QQQI", 0, 2**33, 0, 0)), (b"data", 0xFFFFFFFF, b"")), 56 + 2**33),
        (FTYP + box(b"mdat", bytes(100)), 16 + 108),
        (FTYP + box(b"mdat", bytes(10), 5000), 16 + 5000),
        (FTYP + box(b"mdat", struct.pack(">Q", 2**64 - 1), 1), 16 + 2**64 - 1),
        (FTYP + struct.pack(">I4s", 0, b"mdat") + bytes(50), None),  # up to the end of the file
        (FTYP + b"\0\0", None),
        (mp3(0b11, 77, 5000), 5000),
        (mp3(0b10, 5000), 5000),
        (mp3(0b01, 77), None),
        (mp3(0b11, 77, 5000, offset=21), 5000),
        (b"ID3\4\0\0\0\0\1\0" + bytes(128) + mp3(0b11, 77, 5000), 138 + 5000),
        (b"fLaC", None),
        (b"", None),
    ],
)
def test_what_a_header_says(content: bytes, announced: int | None) -> None:
    assert announced_bytes(io.BytesIO(content)) == announced
