"""Files that are not audio are recognised by their first bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ErrorCode
from processor.audio.sniff import HEAD_BYTES, sniff
from tests.processor.source_files import WRITERS


def zipped() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("song.wav", bytes(100))
    return content.getvalue()


def tarred() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("song.wav"))
    return content.getvalue()


PAGE = ErrorCode.SOURCE_IS_WEB_PAGE
TEXT = ErrorCode.SOURCE_IS_TEXT
PLAYLIST = ErrorCode.SOURCE_IS_PLAYLIST
ARCHIVE = ErrorCode.SOURCE_IS_ARCHIVE
DOCUMENT = ErrorCode.SOURCE_IS_DOCUMENT
IMAGE = ErrorCode.SOURCE_IS_IMAGE

FOUND: dict[str, tuple[bytes, ErrorCode, str]] = {
    "a page": (b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>", PAGE, "a web page"),
    "a page with white space": (b"\r\n\t <HTML lang=en>", PAGE, "a web page"),
    "a page with a byte order mark": (b"\xef\xbb\xbf<!doctype HTML>", PAGE, "a web page"),
    "a page after comments": (b"<!-- one -->\n<!-- two --><html>", PAGE, "a web page"),
    "a page after a long comment": (b"<!-- " + b"licence " * 1000, PAGE, "a web page"),
    "a page in XHTML": (b'<?xml version="1.0"?>\n<html xmlns="http://www.w3.org/1999/xhtml">', PAGE, "a web page"),
    "a page in UTF-16": ("<html><body>hello</body></html>".encode("utf-16"), PAGE, "a web page"),
    "a page in Latin-1": ("<html><body>Zugriff für Gäste</body></html>".encode("latin-1"), PAGE, "a web page"),
    "a piece of a page": (b"<h1>403 Forbidden</h1>", PAGE, "a web page"),
    "an error of a store": (
        b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>',
        TEXT,
        "an XML document such as an error message",
    ),
    "XML without a declaration": (b"<Error><Code>NoSuchKey</Code></Error>", TEXT, "an XML document"),
    "JSON": (json.dumps({"error": "expired"}).encode(), TEXT, "a JSON document such as an error message"),
    "a list in JSON": (b' [ {"error": 1} ]', TEXT, "a JSON document"),
    "a sentence": (b"Not found\n", TEXT, "a plain text"),
    "a sentence in UTF-8": ("Quota überschritten: 今日はここまで".encode() * 200, TEXT, "a plain text"),
    "M3U": (b"#EXTM3U\n#EXTINF:9,a song\nsong.mp3\n", PLAYLIST, "a playlist (M3U)"),
    "HLS": (b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:9,\nsong.ts\n", PLAYLIST, "a playlist of segments (HLS)"),
    "M3U without a header": (b"# mine\nhttps://a.example/1.mp3\r\nhttps://a.example/2.mp3\r\n", PLAYLIST, "a list of"),
    "PLS": (b"[playlist]\nFile1=http://a.example/1.mp3\n", PLAYLIST, "a playlist (PLS)"),
    "XSPF": (b'<?xml version="1.0"?><playlist xmlns="http://xspf.org/ns/0/">', PLAYLIST, "a playlist (XSPF)"),
    "DASH": (b'<?xml version="1.0"?>\n<!-- x -->\n<MPD xmlns="urn:mpeg">', PLAYLIST, "a playlist (DASH)"),
    "ASX": (b'<ASX version="3.0"><entry>', PLAYLIST, "a playlist (ASX)"),
    "ASX of another kind": (b"[Reference]\r\nRef1=http://a.example\r\n", PLAYLIST, "a playlist (ASX)"),
    "a podcast": (b'<?xml version="1.0"?><rss version="2.0">', PLAYLIST, "a feed (RSS)"),
    "ffconcat": (b"ffconcat version 1.0\nfile '/etc/passwd'\n", PLAYLIST, "a playlist (ffconcat)"),
    "SDP": (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n", PLAYLIST, "a description of a session (SDP)"),
    "zip": (zipped(), ARCHIVE, "an archive (ZIP)"),
    "tar": (tarred(), ARCHIVE, "an archive (tar)"),
    "gzip": (gzip.compress(b"x"), ARCHIVE, "a compressed file (gzip)"),
    "bzip2": (bz2.compress(b"x"), ARCHIVE, "a compressed file (bzip2)"),
    "xz": (lzma.compress(b"x"), ARCHIVE, "a compressed file (xz)"),
    "RAR 5": (b"Rar!\x1a\x07\x01\0" + bytes(50), ARCHIVE, "an archive (RAR)"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\x04" + bytes(50), ARCHIVE, "an archive (7z)"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", DOCUMENT, "a document (PDF)"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(50), IMAGE, "an image (PNG)"),
    "JPEG": (b"\xff\xd8\xff\xe0\0\x10JFIF\0", IMAGE, "an image (JPEG)"),
    "GIF": (b"GIF89a" + bytes(50), IMAGE, "an image (GIF)"),
    "WebP": (b"RIFF\x24\0\0\0WEBPVP8 " + bytes(50), IMAGE, "an image (WebP)"),
    "HEIF": (b"\0\0\0\x18ftypheic" + bytes(50), IMAGE, "an image (HEIF)"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg">', IMAGE, "an image (SVG)"),
    "MIDI": (b"MThd\0\0\0\x06\0\x01", ErrorCode.NOT_AUDIO, "a MIDI file"),
}


@pytest.mark.parametrize("kind_name", FOUND)
def test_kind_is_recognised(kind_name: str) -> None:
    head, code, name = FOUND[kind_name]
    finding = sniff(head[:HEAD_BYTES])
    assert finding is not None
    assert (finding.code, finding.name[: len(name)]) == (code, name)


@pytest.mark.parametrize("kind_name", FOUND)
def test_refusal_names_the_kind_and_has_advice(kind_name: str) -> None:
    finding = sniff(FOUND[kind_name][0][:HEAD_BYTES])
    assert finding is not None
    error = finding.refusal()
    assert error.code is finding.code
    assert error.message.startswith(f"the source is {finding.name}, not audio: ")
    assert len(error.message.partition(": ")[2]) > 20


@pytest.mark.parametrize("kind", WRITERS)
def test_audio_is_not_recognised(tmp_path: Path, kind: str) -> None:
    assert sniff(WRITERS[kind](tmp_path / "song").read_bytes()[:HEAD_BYTES]) is None


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b" \n",
        bytes(100),
        b"ID3\x04\0\0\0\0\0\0",
        b"\xff\xfb\x90\x64" + bytes(413),
        b"\xff\xfe\x90\x64" + bytes(range(256)),  # Layer I, which begins as UTF-16 does
        b"OggS\0\x02" + bytes(20),
        b"#!AMR\n\x3c\x08" + bytes(30),
        b"<\0\0\0",
        b"BM" + bytes(20),
    ],
)
def test_possible_audio_is_not_recognised(head: bytes) -> None:
    assert sniff(head) is None


@given(st.binary(max_size=300) | st.binary(max_size=40).map(lambda data: b"<!--" + data * 100))
def test_any_bytes_are_accepted(head: bytes) -> None:
    sniff(head[:HEAD_BYTES])


@pytest.mark.parametrize("part", [b"<!", b"<!--", b"<!-->", b"<!-- -->", b"<?", b"<?x?>", b"<a", b"\n", b"<!>", b"a:"])
def test_hostile_heads_take_linear_time(part: bytes) -> None:
    """A regular expression that backtracks would not finish within the test's timeout."""
    sniff((part * HEAD_BYTES)[: HEAD_BYTES - 1] + b"\0")
    sniff((b"<?xml?>" + part * HEAD_BYTES)[:HEAD_BYTES])
