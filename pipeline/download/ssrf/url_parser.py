"""A strict URL parser, which rejects unusual URLs instead of repairing them.

Parsers disagree about unusual URLs, and each disagreement can show the guard one host and the connection another. An
accepted URL is rebuilt from its checked parts before it is used.
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
#: RFC 1123 has no underscores, but the DNS, many buckets and compose services do.
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
#: A last label that the WHATWG parser and inet_aton read as a number: 127.1, 2130706433, 0x7f000001, 0177.0.0.1.
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True, slots=True)
class ParsedUrl:
    """A URL that has the same meaning for every parser."""

    scheme: str
    """``http`` or ``https``."""
    host: str
    """Lower-case ASCII (A-labels for international names), or an address without brackets."""
    port: int
    target: str
    """Unchanged path and query; begins with ``/``."""

    @property
    def url(self) -> str:
        """The URL for the HTTP library: no fragment, no default port, no user information."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.target}"


def parse_url(url: str) -> ParsedUrl:
    """Parse a plain http(s) URL. Raises PermanentError (``url_invalid``) for every other text."""
    _check_characters(url)
    parts = _URL.fullmatch(url)
    if parts is None:
        raise _invalid("it does not begin with http:// or https:// and a host")
    authority, target = parts["authority"], parts["target"]
    if "@" in authority:
        raise _invalid("it contains user information")
    if "%" in authority:
        raise _invalid("its host is percent-encoded or has a zone")
    place = _AUTHORITY.fullmatch(authority)
    if place is None:
        raise _invalid("its host or port is malformed")
    scheme = parts["scheme"].lower()
    port = int(place["port"] or _DEFAULT_PORTS[scheme])
    if port > 65535:
        raise _invalid("its port is out of range")
    if place["literal"]:
        address = parse_address(place["literal"])
        if not isinstance(address, IPv6Address):
            raise _invalid("its host is not an IPv6 address")
        host = str(address)
    else:
        host = _parse_name(place["name"])
    return ParsedUrl(scheme, host, port, target if target.startswith("/") else f"/{target}")


def join_url(base: ParsedUrl, reference: str) -> ParsedUrl:
    """Resolve a ``Location`` header against the URL that sent it. Raises as ``parse_url`` does."""
    # Checked before joining: urljoin silently removes tabs and line breaks, and reads http:host as a path.
    _check_characters(reference)
    if _ABSOLUTE.match(reference):
        return parse_url(reference)
    if _HOSTLESS.match(reference):
        raise _invalid("it has no host")
    try:
        joined = urljoin(base.url, reference)
    except ValueError:
        raise _invalid("it cannot be parsed") from None
    return parse_url(joined)


def _check_characters(text: str) -> None:
    if len(text.encode("utf-8", "surrogatepass")) > MAX_URL_BYTES:
        raise _invalid(f"it is longer than {MAX_URL_BYTES} bytes")
    # Not printable: control and format characters, white space other than the plain space, and surrogates.
    if not text.isprintable() or " " in text or "\\" in text:
        raise _invalid("it contains white space, a backslash or control characters")


def _parse_name(name: str) -> str:
    """Return the name in lower-case ASCII without the root's dot, or an IPv4 address in its one plain form."""
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
    """Return the A-labels of an international name (IDNA 2008, RFC 5891).

    UTS 46 mapping is off: it turns circled digits and ideographic full stops into the digits and dots of an address.
    Only the letter case is mapped, and only in names in NFKC form, where that never produces punctuation.
    """
    if unicodedata.normalize("NFKC", name) != name:
        raise _invalid("its host name contains characters that stand for others")
    try:
        return idna.encode(name.lower(), strict=True, uts46=False, std3_rules=True).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise _invalid("its host name is malformed") from None


def _invalid(reason: str) -> PermanentError:
    return PermanentError(f"the URL is not a valid http(s) URL: {reason}", code=ErrorCode.URL_INVALID)
