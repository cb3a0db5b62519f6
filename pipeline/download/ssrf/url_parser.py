"""URLs as strings: taken apart strictly, rejected rather than repaired.

Parsers disagree about odd URLs, and every disagreement is a way to show the guard one host and the connection another.
So a URL is either plain, and is rebuilt from its checked parts for whoever connects, or it is refused.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from ipaddress import IPv6Address
from urllib.parse import urljoin

import idna

from pipeline.download.ssrf.ip_ranges import parse_address
from pipeline.errors import ErrorCode, PermanentError

MAX_URL_BYTES = 8192
#: RFC 1035 allows 255 octets on the wire, which are 253 characters of text.
MAX_HOST_LENGTH = 253

_DEFAULT_PORTS = {"http": 80, "https": 443}
_URL = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<target>[^#]*)(?:#.*)?", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?:\[(?P<literal>[0-9A-Fa-f:.]+)\]|(?P<name>[^:\[\]]+))(?::(?P<port>[1-9][0-9]{0,4}))?")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_HOSTLESS = re.compile(r"//(?:[/?#]|$)")
#: Underscores are in no host name of RFC 1123, but in the DNS and in many buckets and compose services.
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
#: A last label that the WHATWG parser and inet_aton take for a number: 127.1, 2130706433, 0x7f000001, 0177.0.0.1.
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True, slots=True)
class ParsedUrl:
    """A URL that means the same to every parser."""

    scheme: str
    """``http`` or ``https``."""
    host: str
    """Lower-case ASCII (A-labels for international names), or an address without brackets."""
    port: int
    target: str
    """Path and query as they were given; begins with ``/``."""

    @property
    def url(self) -> str:
        """The URL as it is handed to the HTTP library: no fragment, no default port, no user information."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.target}"


def parse_url(url: str) -> ParsedUrl:
    """Take a URL apart. Raises PermanentError (code ``url_invalid``) unless it is a plain http(s) URL."""
    check_characters(url)
    parts = _URL.fullmatch(url)
    if parts is None:
        raise _invalid("it does not begin with http:// or https:// and a host")
    scheme = parts["scheme"].lower()
    host, port = _parse_authority(parts["authority"])
    target = parts["target"]
    return ParsedUrl(
        scheme,
        host,
        port or _DEFAULT_PORTS[scheme],
        target if target.startswith("/") else f"/{target}",
    )


def join_url(base: ParsedUrl, reference: str) -> ParsedUrl:
    """The URL that a ``Location`` header means. Raises as ``parse_url`` does."""
    # Checked before joining: urljoin drops tabs and line breaks in silence, and takes http:host for a path.
    check_characters(reference)
    if _ABSOLUTE.match(reference):
        return parse_url(reference)
    if _HOSTLESS.match(reference):
        raise _invalid("it has no host")
    try:
        joined = urljoin(base.url, reference)
    except ValueError:
        raise _invalid("it cannot be parsed") from None
    return parse_url(joined)


def check_characters(text: str) -> None:
    """Raise PermanentError (code ``url_invalid``) for what has no place anywhere in a URL."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_URL_BYTES:
        raise _invalid(f"it is longer than {MAX_URL_BYTES} bytes")
    # Not printable are control and format characters, every kind of white space but the plain space, and surrogates.
    if not text.isprintable() or " " in text or "\\" in text:
        raise _invalid("it contains white space, a backslash or control characters")


def _parse_authority(authority: str) -> tuple[str, int | None]:
    if "@" in authority:
        raise _invalid("it contains user information")
    if "%" in authority:
        raise _invalid("its host is percent-encoded or has a zone")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise _invalid("its host or port is malformed")
    port = int(parts["port"]) if parts["port"] else None
    if port is not None and port > 65535:
        raise _invalid("its port is out of range")
    return _parse_literal(parts["literal"]) if parts["literal"] else _parse_name(parts["name"]), port


def _parse_literal(literal: str) -> str:
    address = parse_address(literal)
    if not isinstance(address, IPv6Address):
        raise _invalid("its host is not an IPv6 address")
    return str(address)


def _parse_name(name: str) -> str:
    """The name in lower-case ASCII without the root's dot, or an IPv4 address in its one plain spelling."""
    host = name.lower() if name.isascii() else _to_ascii(name)
    if parse_address(host) is not None:
        return host
    host = host.removesuffix(".")
    labels = host.split(".")
    if _NUMERIC.fullmatch(labels[-1]):
        raise _invalid("its host is an unusual spelling of an IPv4 address")
    if len(host) > MAX_HOST_LENGTH or not all(_LABEL.fullmatch(label) for label in labels):
        raise _invalid("its host name is malformed")
    return host


def _to_ascii(name: str) -> str:
    """The A-labels of an international name (IDNA 2008, RFC 5891).

    UTS 46 mapping is off: it turns circled digits and ideographic full stops into the digits and dots of an address.
    Only the letter case is mapped, and only in names that are their own NFKC form, where it never makes punctuation.
    """
    if unicodedata.normalize("NFKC", name) != name:
        raise _invalid("its host name contains characters that stand for others")
    try:
        return idna.encode(name.lower(), strict=True, uts46=False, std3_rules=True).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise _invalid("its host name is malformed") from None


def _invalid(reason: str) -> PermanentError:
    return PermanentError(f"the URL is not a valid http(s) URL: {reason}", code=ErrorCode.URL_INVALID)
