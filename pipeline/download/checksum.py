"""What a whole file must hash to: told by whoever wants it, or by the server that has it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

_HEX_DIGITS: Final = {"sha256": 64, "md5": 32}
_ALGORITHM: Final = {"sha-256": "sha256", "md5": "md5"}
_BLOCK: Final = 1024**2
#: Bytes to hash at a time while there is other work to be seen to.
_STEP: Final = 16 * _BLOCK
_MEMBER = re.compile(r"\s*([A-Za-z0-9-]+)\s*=\s*:?([A-Za-z0-9+/]+={0,2}):?\s*", re.ASCII)


class Readable(Protocol):
    """A file that can be read anywhere."""

    def read(self, offset: int, size: int, /) -> bytes: ...


class Hash(Protocol):
    """A hash of ``hashlib``."""

    def update(self, data: bytes | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Checksum:
    """The hash of a whole file, and of its pieces where they are known.

    Raises ValueError if it cannot be one: a typing error must not look like a damaged file.
    """

    algorithm: str
    """``sha256`` or ``md5``."""
    hexdigest: str
    piece_bytes: int | None = None
    pieces: tuple[str, ...] = ()
    """SHA-256 in hexadecimal of each piece of ``piece_bytes``; the last may be shorter."""

    def __post_init__(self) -> None:
        digits = _HEX_DIGITS.get(self.algorithm)
        if digits is None:
            raise ValueError(f"a checksum is sha256 or md5, not {self.algorithm!r}")
        if not _is_hex(self.hexdigest, digits) or not all(_is_hex(piece, 64) for piece in self.pieces):
            raise ValueError(f"a {self.algorithm} checksum is written in hexadecimal digits, of the right number")
        if bool(self.pieces) != (self.piece_bytes is not None) or (
            self.piece_bytes is not None and self.piece_bytes < 1
        ):
            raise ValueError("piece_bytes and pieces go together")

    def new(self) -> Hash:
        """An empty hash of this kind."""
        return new_hash(self.algorithm)

    def matches(self, hexdigest: str) -> bool:
        """Whether ``hexdigest`` is the one."""
        return hexdigest.lower() == self.hexdigest.lower()

    def spans(self, total: int) -> Iterator[tuple[int, int, str]]:
        """Start, end and SHA-256 of each piece of a file of ``total`` bytes; nothing if the pieces do not cover it."""
        size = self.piece_bytes or 0
        if size and len(self.pieces) == -(-total // size):
            for number, digest in enumerate(self.pieces):
                yield number * size, min((number + 1) * size, total), digest.lower()


class PrefixHash:
    """The hash of a file that is being written in any order, taken of what is complete from its start on."""

    def __init__(self, file: Readable, algorithm: str) -> None:
        self._file = file
        self._hash = new_hash(algorithm)
        self.position = 0
        """Up to which it was taken."""

    def advance(self, end: int, *, most: int = _STEP) -> None:
        """Take it further, to ``end`` or by ``most`` bytes."""
        end = min(end, self.position + most)
        while self.position < end:
            data = self._file.read(self.position, min(end - self.position, _BLOCK))
            if not data:
                return  # shorter than it should be: the hash will tell
            self._hash.update(data)
            self.position += len(data)

    def hexdigest(self) -> str:
        """What it is so far."""
        return self._hash.hexdigest()


def new_hash(algorithm: str) -> Hash:
    """An empty hash; both are for finding damage and mix-ups, so md5 will do where nothing else is known."""
    return hashlib.new(algorithm, usedforsecurity=False)


def announced(headers: Mapping[str, str], *, whole: bool) -> Checksum | None:
    """What the server says that the whole file hashes to: the strongest hash of those that it names.

    ``whole``: this answer has the whole file in it, so that what is said of the body is said of the file.
    """
    found: dict[str, str] = {}
    for header, of_body in _HEADERS:
        if header in headers and (whole or not of_body) and _is_about_these_bytes(header, headers):
            found |= _members(headers[header])
    if whole and "Content-MD5" in headers:
        found |= _members(f"md5={headers['Content-MD5']}")
    for algorithm in ("sha256", "md5"):
        if algorithm in found:
            return Checksum(algorithm, found[algorithm])
    return None


#: RFC 9530, RFC 3230 (of the whole file, even in an answer with a part of it), and Google Cloud Storage.
_HEADERS: Final = (("x-goog-hash", False), ("Digest", False), ("Content-Digest", True), ("Repr-Digest", False))


def _is_about_these_bytes(header: str, headers: Mapping[str, str]) -> bool:
    """Google hashes what it stores, which is not what it sends if it unpacks that on the way."""
    stored = headers.get("x-goog-stored-content-encoding", "identity")
    return header != "x-goog-hash" or stored.strip().lower() == "identity"


def _members(value: str) -> dict[str, str]:
    """Hexadecimal digests by algorithm. What is not understood is passed over: it binds nobody."""
    found = {}
    for member in value.split(","):
        match = _MEMBER.fullmatch(member)
        algorithm = _ALGORITHM.get(match[1].lower()) if match else None
        if match is None or algorithm is None:
            continue
        try:
            digest = base64.b64decode(match[2], validate=True).hex()
        except binascii.Error:
            continue
        if _is_hex(digest, _HEX_DIGITS[algorithm]):
            found[algorithm] = digest
    return found


def _is_hex(text: str, digits: int) -> bool:
    return re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", text, re.ASCII) is not None
