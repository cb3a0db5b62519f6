"""Untrusted headers: reading them terminates and raises nothing, for any content."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.audio.formats.declared_size import declared_size
from processor.audio.formats.truncation import ends_complete

MAGIC = (
    b"RIFF\0\0\0\0WAVE",
    b"RF64\xff\xff\xff\xffWAVEds64",
    b"\0\0\0\x10ftypisom\0\0\0\0",
    b"ID3\4\0\0",
    b"caff\0\1\0\0",
    b"OggS\0\4",
    bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),
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


def asf(size: int, flags: int = 0, *before: bytes) -> bytes:
    content = bytes(16) + struct.pack("<QQQQQQI", size, 0, 0, 0, 0, 0, flags)
    objects = (*before, bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365") + struct.pack("<Q", 24 + 68) + content)
    return bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + bytes(14) + b"".join(objects)


def caf(*chunks: tuple[bytes, int, bytes]) -> bytes:
    return b"caff" + bytes(4) + b"".join(kind + struct.pack(">q", size) + content for kind, size, content in chunks)


def wave64(size: int) -> bytes:
    return bytes.fromhex("726966662e91cf11a5d628db04c10000") + struct.pack("<Q", size)


def page(flags: int, content: bytes) -> bytes:
    """Return a page of an Ogg stream, in segments of 100 bytes."""
    table = bytes([100] * (len(content) // 100))
    return b"OggS\0" + bytes([flags]) + bytes(20) + bytes([len(table)]) + table + content


FTYP = box(b"ftyp", b"isom" + bytes(4))


@given(st.sampled_from(MAGIC), st.binary(max_size=300))
def test_declared_size_accepts_any_bytes(magic: bytes, rest: bytes) -> None:
    announced = declared_size(io.BytesIO(magic + rest))
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
        (wave64(5000), 5000),
        (wave64(0), None),
        (wave64(2**64 - 1), None),
        (b"RIFF" + struct.pack("<I", 5000) + b"AVI ", 5008),
        (b"RIFF" + bytes(4) + b"AVI ", None),
        (b"RIFF" + struct.pack("<I", 2**32 - 1) + b"AVI ", None),
        (b".snd" + struct.pack(">II", 24, 5000), 5024),
        (b".snd" + struct.pack(">II", 24, 2**32 - 1), None),
        (caf((b"desc", 32, bytes(32)), (b"data", 5000, b"")), 8 + 44 + 12 + 5000),
        (caf((b"data", -1, b"")), None),
        (caf((b"desc", 2**63 - 1, b""), (b"data", 5000, b"")), None),
        (asf(5000), 5000),
        (asf(5000, 0, bytes(16) + struct.pack("<Q", 124) + bytes(100)), 5000),
        (asf(5000, 1), None),  # a broadcast
        (asf(5000, 0, bytes(16) + struct.pack("<Q", 2**64 - 1)), None),
        (b"FLV\x01" + b"\0\x08filesize\0" + struct.pack(">d", 5000.0), 5000),
        (b"FLV\x01" + b"\0\x08filesize\0" + struct.pack(">d", float("nan")), None),
        (b"FLV\x01" + bytes(100), None),
        (b"fLaC", None),
        (b"", None),
    ],
)
def test_declared_size_of_each_format(content: bytes, announced: int | None) -> None:
    assert declared_size(io.BytesIO(content)) == announced


@given(st.sampled_from(MAGIC), st.binary(max_size=300))
def test_ends_complete_accepts_any_bytes(magic: bytes, rest: bytes) -> None:
    ends_complete(io.BytesIO(magic + rest))


@pytest.mark.parametrize(
    ("content", "proper"),
    [
        (page(2, bytes(300)) + page(0, bytes(300)) + page(4, bytes(300)), True),
        (page(6, b""), True),
        (page(2, bytes(300)) + page(0, bytes(300)), False),
        (page(2, bytes(300)) + page(4, bytes(300))[:-1], False),
        (page(2, bytes(300)) + page(4, bytes(300))[:20], False),
        (FTYP + box(b"moof", bytes(10)) + box(b"mdat", bytes(100)), True),
        (FTYP + box(b"moof", bytes(10)) + box(b"mdat", bytes(10), 5000), False),
        (FTYP + box(b"moof", bytes(10), 5000), False),
        (FTYP + struct.pack(">I4s", 0, b"mdat") + bytes(50), True),  # up to the end of the file
        (FTYP + box(b"mdat", bytes(100)) + b"TAG of some other format", True),
        (b"RIFF", True),
        (b"", True),
    ],
)
def test_ends_complete_of_each_format(content: bytes, proper: bool) -> None:
    assert ends_complete(io.BytesIO(content)) == proper
