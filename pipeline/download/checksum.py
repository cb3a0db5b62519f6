"""The expected hash of a whole file, given by the caller or announced by the server."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

_HEX_DIGITS: Final = {"sha256": 64, "md5": 32}
_ALGORITHM: Final = {"sha-256": "sha256", "md5": "md5"}
_MEMBER = re.compile(r"\s*([A-Za-z0-9-]+)\s*=\s*:?([A-Za-z0-9+/]+={0,2}):?\s*", re.ASCII)
#: RFC 9530, RFC 3230 and Google Cloud Storage; with True, the header describes the body of this response only.
_HEADERS: Final = (("x-goog-hash", False), ("Digest", False), ("Content-Digest", True), ("Repr-Digest", False))


class Hash(Protocol):
    """A hash object of ``hashlib``."""

    def update(self, data: bytes | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Checksum:
    """The hash of a whole file. Raises ValueError if ``hexdigest`` is malformed, so that a typing error in the
    configuration is not mistaken for a damaged file.
    """

    algorithm: str
    """``sha256`` or ``md5``."""
    hexdigest: str

    def __post_init__(self) -> None:
        digits = _HEX_DIGITS.get(self.algorithm)
        if digits is None:
            raise ValueError(f"a checksum must be sha256 or md5, not {self.algorithm!r}")
        if not _is_hex(self.hexdigest, digits):
            raise ValueError(f"a {self.algorithm} checksum must have {digits} hexadecimal digits")

    def new(self) -> Hash:
        """Return an empty hash object of this algorithm."""
        # MD5 is accepted as well: the hash detects damage and mix-ups, not attacks.
        return hashlib.new(self.algorithm, usedforsecurity=False)

    def matches(self, hexdigest: str) -> bool:
        """Compare with ``hexdigest``, ignoring case."""
        return hexdigest.lower() == self.hexdigest.lower()


def announced_checksum(headers: Mapping[str, str], *, whole_file: bool) -> Checksum | None:
    """Return the strongest hash of the whole file that the response headers announce, or None.

    ``whole_file``: the response carries the whole file, so that a hash of the body is a hash of the file.
    """
    found: dict[str, str] = {}
    stored_encoding = headers.get("x-goog-stored-content-encoding", "identity").strip().lower()
    for header, of_body in _HEADERS:
        # Google hashes the stored bytes, which differ from the sent ones if it decompresses them on the way.
        of_other_bytes = header == "x-goog-hash" and stored_encoding != "identity"
        if header in headers and (whole_file or not of_body) and not of_other_bytes:
            found |= _digests(headers[header])
    if whole_file and "Content-MD5" in headers:
        found |= _digests(f"md5={headers['Content-MD5']}")
    for algorithm in ("sha256", "md5"):
        if algorithm in found:
            return Checksum(algorithm, found[algorithm])
    return None


def _digests(value: str) -> dict[str, str]:
    """Return the hexadecimal digests by algorithm; unknown and malformed members are ignored."""
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
