"""Recognise files that are not audio by their first bytes: web pages, playlists, archives and others.

The file's name and media type are not used. A file that is not recognised here may be audio: ffmpeg decides.

Sources: WHATWG MIME Sniffing for web pages, and the formats' own specifications for their signatures.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from pipeline.errors import ErrorCode, PermanentError

#: The part of a file that is examined, bytes. The signature of tar is at offset 257, that of a web page after comments.
HEAD_BYTES = 4096

_WEB_PAGE = ErrorCode.SOURCE_IS_WEB_PAGE
_TEXT = ErrorCode.SOURCE_IS_TEXT
_PLAYLIST = ErrorCode.SOURCE_IS_PLAYLIST
_ARCHIVE = ErrorCode.SOURCE_IS_ARCHIVE
_DOCUMENT = ErrorCode.SOURCE_IS_DOCUMENT
_IMAGE = ErrorCode.SOURCE_IS_IMAGE
_ADVICE = {
    _WEB_PAGE: "give the address of the audio file itself, one that needs no log-in",
    _TEXT: "open the address to see what it says, and give the address of the audio file itself",
    _PLAYLIST: "it only refers to other addresses, so give the address of one audio file",
    _ARCHIVE: "unpack it, and give the address of the audio file in it",
    _DOCUMENT: "give the address of an audio file",
    _IMAGE: "give the address of an audio file",
    ErrorCode.NOT_AUDIO: "it has notes and no sound, so render it to an audio file first",
}


@dataclass(frozen=True, slots=True)
class SniffResult:
    """A recognised kind of file that is not audio. ``name``: the format with its article, as part of a sentence."""

    code: ErrorCode
    name: str

    def refusal(self) -> PermanentError:
        """Return the error for the client: the kind of file, and advice."""
        return PermanentError(f"the source is {self.name}, not audio: {_ADVICE[self.code]}", code=self.code)


_ZIP = SniffResult(_ARCHIVE, "an archive (ZIP)")
_TIFF = SniffResult(_IMAGE, "an image (TIFF)")
#: Offset, signature, finding.
_SIGNATURES: tuple[tuple[int, bytes, SniffResult], ...] = (
    (0, b"PK\x03\x04", _ZIP),
    (0, b"PK\x05\x06", _ZIP),
    (0, b"PK\x07\x08", _ZIP),
    (0, b"\x1f\x8b\x08", SniffResult(_ARCHIVE, "a compressed file (gzip)")),
    (0, b"BZh", SniffResult(_ARCHIVE, "a compressed file (bzip2)")),
    (0, b"\xfd7zXZ\0", SniffResult(_ARCHIVE, "a compressed file (xz)")),
    (0, b"\x28\xb5\x2f\xfd", SniffResult(_ARCHIVE, "a compressed file (Zstandard)")),
    (0, b"Rar!\x1a\x07", SniffResult(_ARCHIVE, "an archive (RAR)")),
    (0, b"7z\xbc\xaf\x27\x1c", SniffResult(_ARCHIVE, "an archive (7z)")),
    (257, b"ustar", SniffResult(_ARCHIVE, "an archive (tar)")),
    (0, b"%PDF-", SniffResult(_DOCUMENT, "a document (PDF)")),
    (0, b"{\\rtf", SniffResult(_DOCUMENT, "a document (RTF)")),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", SniffResult(_DOCUMENT, "a document (Microsoft Office)")),
    (0, b"\x89PNG\r\n\x1a\n", SniffResult(_IMAGE, "an image (PNG)")),
    (0, b"\xff\xd8\xff", SniffResult(_IMAGE, "an image (JPEG)")),
    (0, b"GIF87a", SniffResult(_IMAGE, "an image (GIF)")),
    (0, b"GIF89a", SniffResult(_IMAGE, "an image (GIF)")),
    (8, b"WEBPVP8", SniffResult(_IMAGE, "an image (WebP)")),
    (0, b"II*\0", _TIFF),
    (0, b"MM\0*", _TIFF),
    (0, b"8BPS", SniffResult(_IMAGE, "an image (Photoshop)")),
    *((4, b"ftyp" + brand, SniffResult(_IMAGE, "an image (HEIF)")) for brand in (b"heic", b"heix", b"mif1", b"avif")),
    (0, b"MThd", SniffResult(ErrorCode.NOT_AUDIO, "a MIDI file")),
)


#: White space, declarations and comments, which may precede the first element. The quantifier is possessive (``*+``)
#: and never backtracks, so that the time is linear for every input.
_PROLOG = r"(?:\s+|<\?.*?\?>|<!--.*?-->|<![^>]*>)*+"
_ROOT = re.compile(_PROLOG + r"<([a-z][\w.-]*)(?::([\w.-]+))?[\s/>]", re.DOTALL | re.IGNORECASE)
_HTML_TYPE = re.compile(r"(?:\s+|<\?.*?\?>|<!--.*?-->)*+<!doctype\s+html", re.DOTALL | re.IGNORECASE)
_HTML = {
    "html",
    "head",
    "body",
    "title",
    "script",
    "style",
    "iframe",
    "div",
    "table",
    "h1",
    "font",
    "meta",
    "a",
    "b",
    "br",
    "p",
}
_XML: dict[str, SniffResult] = {
    "mpd": SniffResult(_PLAYLIST, "a playlist (DASH)"),
    "playlist": SniffResult(_PLAYLIST, "a playlist (XSPF)"),
    "asx": SniffResult(_PLAYLIST, "a playlist (ASX)"),
    "smil": SniffResult(_PLAYLIST, "a playlist (SMIL)"),
    "smoothstreamingmedia": SniffResult(_PLAYLIST, "a playlist (Smooth Streaming)"),
    "rss": SniffResult(_PLAYLIST, "a feed (RSS)"),
    "feed": SniffResult(_PLAYLIST, "a feed (Atom)"),
    "svg": SniffResult(_IMAGE, "an image (SVG)"),
}
#: The first characters of playlists, in lower case.
_PLAYLISTS = (
    ("#extm3u", "a playlist (M3U)"),
    ("[playlist]", "a playlist (PLS)"),
    ("[reference]", "a playlist (ASX)"),
    ("ffconcat version", "a playlist (ffconcat)"),
    ("rtsptext", "a playlist (RTSP)"),
    ("v=0\no=", "a description of a session (SDP)"),
    ("v=0\r\no=", "a description of a session (SDP)"),
)
_JSON = re.compile(r"\{\s*[\"}]|\[\s*[\[\]{\"0-9tfn-]")
#: A line of a plain list of addresses.
_LINK = re.compile(r"[a-z]{3,6}://\S+", re.IGNORECASE)
#: Control characters that text does not contain: all but tab, line feed, form feed, carriage return and escape.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")


def sniff(head: bytes) -> SniffResult | None:
    """Recognise a file by ``head``, its first ``HEAD_BYTES``. Return None if it may be audio."""
    for offset, signature, finding in _SIGNATURES:
        if head.startswith(signature, offset):
            return finding
    text = _as_text(head)
    # Web pages may be in any of the old encodings; tags are readable in all of them.
    markup = _by_markup(text if text is not None else head.decode("latin-1"))
    return markup if markup or text is None else _by_words(text.strip())


def _by_markup(text: str) -> SniffResult | None:
    root = _ROOT.match(text)
    name = (root[2] or root[1]).lower() if root else ""
    if name in _HTML or _HTML_TYPE.match(text) or (not root and text.lstrip().startswith("<!--")):
        return SniffResult(_WEB_PAGE, "a web page")
    if root or text.lstrip().startswith("<?xml"):
        return _XML.get(name, SniffResult(_TEXT, "an XML document such as an error message"))
    return None


def _by_words(text: str) -> SniffResult | None:
    for beginning, name in _PLAYLISTS:
        if text[: len(beginning)].lower() == beginning:
            segments = "#EXT-X-" in text
            return SniffResult(_PLAYLIST, "a playlist of segments (HLS)" if segments else name)
    if _JSON.match(text):
        return SniffResult(_TEXT, "a JSON document such as an error message")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if lines and all(map(_LINK.fullmatch, lines)):
        return SniffResult(_PLAYLIST, "a list of addresses")
    return SniffResult(_TEXT, "a plain text") if text else None


def _as_text(head: bytes) -> str | None:
    """Decode ``head``, which may end within a character. Return None if it is not text."""
    encoding = "utf-8-sig"
    if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) and head.count(0) * 3 > len(head):
        encoding = "utf-16"
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return None
    return None if _CONTROL.search(text) else text
