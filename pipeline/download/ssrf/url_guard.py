"""Which URLs from outside may be talked to: at the front door, and again for every connection."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, Final

from pipeline.download.ssrf.ip_ranges import Address, AddressScope, address_scope, is_in, parse_address
from pipeline.download.ssrf.url_parser import ParsedUrl, parse_url
from pipeline.download.timeout import call_bounded
from pipeline.errors import ErrorCode, PermanentError, TransientError

if TYPE_CHECKING:
    from config import DownloadSettings

#: ``socket.getaddrinfo``, or something that answers like it.
Resolver = Callable[..., Sequence[tuple[Any, ...]]]

WEB_PORTS: Final = (80, 443)

#: Longest name look-up at the front door, s.
RESOLVE_TIMEOUT: Final = 5.0

#: Told for every reason alike: "refused here, timed out there" would draw a map of the network behind us.
FORBIDDEN: Final = "the URL leads to a place that this service does not connect to"

#: Names that mean something only inside a network (RFC 6761, RFC 6762, RFC 8375, ICANN's .internal and custom), among
#: them clouds' metadata services. A name without a dot is one of them too: the resolver's search domains complete it.
_LOCAL_SUFFIXES = (".localhost", ".local", ".localdomain", ".internal", ".intranet", ".lan", ".corp", ".home.arpa")


class UrlGuard:
    """Tells places on the public web from everything else. Immutable, thread-safe.

    ``allow_private`` opens loopback, private and CGNAT networks, names that mean something only inside them, and every
    port. ``allow_networks`` (``10.1.0.0/16`` …) opens those of them alone, and such names if they lead there. Metadata
    services, link-local, multicast and reserved addresses stay closed. ``allow_hosts``, unless empty, are the only
    hosts that may be talked to: names in lower case, ``.example.org`` for every name under it, addresses.
    ``deny_hosts`` and ``deny_networks`` stay closed whatever else is allowed. ``resolver`` answers like
    ``socket.getaddrinfo``; ``resolve_timeout`` (s) bounds it at the front door.
    """

    def __init__(
        self,
        allow_private: bool,
        allowed_ports: Collection[int] = WEB_PORTS,
        *,
        allow_hosts: Iterable[str] = (),
        deny_hosts: Iterable[str] = (),
        allow_networks: Iterable[str] = (),
        deny_networks: Iterable[str] = (),
        resolver: Resolver = socket.getaddrinfo,
        resolve_timeout: float = RESOLVE_TIMEOUT,
    ) -> None:
        self._allow_private = allow_private
        self._allowed_ports = frozenset(allowed_ports)
        self._allow_hosts = frozenset(allow_hosts)
        self._deny_hosts = frozenset(deny_hosts)
        self._allow_networks = tuple(map(ip_network, allow_networks))
        self._deny_networks = tuple(map(ip_network, deny_networks))
        self._resolver = resolver
        self._resolve_timeout = resolve_timeout

    @classmethod
    def from_settings(
        cls, settings: DownloadSettings, *, any_host: bool = False, resolve_timeout: float = RESOLVE_TIMEOUT
    ) -> UrlGuard:
        """The operator's guard. ``any_host``: for URLs that no client gave us, which his list of hosts is not about."""
        return cls(
            settings.allow_private_networks,
            settings.allow_ports,
            allow_hosts=() if any_host else settings.allow_hosts,
            deny_hosts=settings.deny_hosts,
            allow_networks=settings.allow_networks,
            deny_networks=settings.deny_networks,
            resolve_timeout=resolve_timeout,
        )

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
        literal = parse_address(host)
        if not self._is_open_port(port) or not self._is_open_host(host, literal):
            raise forbidden()
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

    def _is_open_port(self, port: int) -> bool:
        return self._allow_private or port in self._allowed_ports

    def _is_open_host(self, host: str, literal: Address | None) -> bool:
        name = host.lower().removesuffix(".")
        if _is_listed(name, self._deny_hosts):
            return False
        if self._allow_hosts:
            return _is_listed(name, self._allow_hosts) or (literal is not None and is_in(literal, self._allow_networks))
        # A local name is looked up only where there is a private network that it may lead to.
        return literal is not None or self._allow_private or bool(self._allow_networks) or not _is_local(name)

    def _is_open_address(self, address: Address) -> bool:
        if is_in(address, self._deny_networks):
            return False
        distance = address_scope(address)
        if distance is not AddressScope.PRIVATE:
            return distance is AddressScope.PUBLIC
        return self._allow_private or is_in(address, self._allow_networks)


def _is_local(name: str) -> bool:
    return "." not in name or name.endswith(_LOCAL_SUFFIXES)


def _is_listed(name: str, hosts: Collection[str]) -> bool:
    """Whether ``hosts`` has ``name`` itself, or ``.suffix`` of it."""
    if name in hosts:
        return True
    labels = name.split(".")
    return any("." + ".".join(labels[first:]) in hosts for first in range(1, len(labels)))


def forbidden() -> PermanentError:
    """The one answer to every URL that leads where it must not."""
    return PermanentError(FORBIDDEN, code=ErrorCode.URL_FORBIDDEN)


def _address_of(answer: tuple[Any, ...]) -> Address:
    family, *_, location = answer
    address = parse_address(str(location[0])) if family in (socket.AF_INET, socket.AF_INET6) else None
    if address is None:
        raise forbidden()
    return address
