"""Which URLs from outside may be talked to: at the front door, and again for every connection."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

from pipeline.download.addresses import Address, Reach, parse_address, reach
from pipeline.download.bounded import call_bounded
from pipeline.download.syntax import ParsedUrl, parse_url
from pipeline.errors import ErrorCode, PermanentError, TransientError

#: ``socket.getaddrinfo``, or something that answers like it.
Resolver = Callable[..., Sequence[tuple[Any, ...]]]

WEB_PORTS: Final = (80, 443)

#: Told for every reason alike: "refused here, timed out there" would draw a map of the network behind us.
FORBIDDEN: Final = "the URL leads to a place that this service does not connect to"

#: Names that mean something only inside a network (RFC 6761, RFC 6762, RFC 8375, ICANN's .internal and custom), among
#: them clouds' metadata services. A name without a dot is one of them too: the resolver's search domains complete it.
_LOCAL_SUFFIXES = (".localhost", ".local", ".localdomain", ".internal", ".intranet", ".lan", ".corp", ".home.arpa")


class UrlGuard:
    """Tells places on the public web from everything else. Immutable, thread-safe.

    ``allow_private`` opens loopback, private and CGNAT networks, names that mean something only inside them, and every
    port; metadata services, link-local, multicast and reserved addresses stay closed. ``resolver`` answers like
    ``socket.getaddrinfo``; ``resolve_timeout`` (s) bounds it at the front door.
    """

    def __init__(
        self,
        allow_private: bool,
        allowed_ports: Sequence[int] = WEB_PORTS,
        *,
        resolver: Resolver = socket.getaddrinfo,
        resolve_timeout: float = 5.0,
    ) -> None:
        self._allow_private = allow_private
        self._allowed_ports = frozenset(allowed_ports)
        self._resolver = resolver
        self._resolve_timeout = resolve_timeout

    def check_syntax(self, url: str) -> ParsedUrl:
        """The parts of ``url``. Raises PermanentError (code ``url_invalid``) unless it is a plain http(s) URL."""
        return parse_url(url)

    def check(self, url: str) -> ParsedUrl:
        """The parts of ``url``, which may be talked to as far as can be told now. Blocks on the DNS.

        Raises PermanentError (``url_invalid`` or ``url_forbidden``), or TransientError (``source_unavailable``) when
        its name does not resolve. The answer may change at any time: the connection checks again and is what counts.
        """
        parsed = parse_url(url)
        try:
            call_bounded(lambda: self.addresses(parsed.host, parsed.port), timeout=self._resolve_timeout)
        except (OSError, UnicodeError):
            raise TransientError(
                "the host name of the URL cannot be resolved", code=ErrorCode.SOURCE_UNAVAILABLE
            ) from None
        return parsed

    def addresses(self, host: str, port: int) -> tuple[Address, ...]:
        """The addresses of ``host``, in the resolver's order, each of which may be connected to. Asks the DNS once.

        Raises PermanentError (``url_forbidden``) if the port, the name or any one of the addresses is not allowed, and
        lets the resolver's OSError through.
        """
        if not self._is_open(port) or not self._is_open_name(host):
            raise forbidden()
        literal = parse_address(host)
        addresses = (literal,) if literal is not None else self._resolve(host, port)
        # One bad answer condemns the name: whoever mixes them in wants the next look-up to yield that one.
        if not all(self._is_open_address(address) for address in addresses):
            raise forbidden()
        return addresses

    def _resolve(self, host: str, port: int) -> tuple[Address, ...]:
        answers = self._resolver(host, port, type=socket.SOCK_STREAM)
        addresses = tuple(dict.fromkeys(_address_of(answer) for answer in answers))
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "the name has no address")
        return addresses

    def _is_open(self, port: int) -> bool:
        return self._allow_private or port in self._allowed_ports

    def _is_open_name(self, host: str) -> bool:
        name = host.lower().removesuffix(".")
        if self._allow_private or parse_address(name) is not None:
            return True
        return "." in name and not name.endswith(_LOCAL_SUFFIXES)

    def _is_open_address(self, address: Address) -> bool:
        distance = reach(address)
        return distance is Reach.PUBLIC or (self._allow_private and distance is Reach.PRIVATE)


def forbidden() -> PermanentError:
    """The one answer to every URL that leads where it must not."""
    return PermanentError(FORBIDDEN, code=ErrorCode.URL_FORBIDDEN)


def _address_of(answer: tuple[Any, ...]) -> Address:
    family, *_, location = answer
    address = parse_address(str(location[0])) if family in (socket.AF_INET, socket.AF_INET6) else None
    if address is None:
        raise forbidden()
    return address
