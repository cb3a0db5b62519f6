"""The SSRF guard: decides which URLs the services may connect to, in the API and again for every connection."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from ipaddress import IPv6Address, IPv6Network, ip_network
from typing import TYPE_CHECKING, Any, Final

from pipeline.download.ssrf.ip_ranges import (
    Address,
    AddressScope,
    address_scope,
    embedded_ipv4,
    is_in,
    nat64_prefixes,
    parse_address,
)
from pipeline.download.ssrf.url_parser import ParsedUrl, parse_url
from pipeline.download.timeout import call_bounded
from pipeline.errors import ErrorCode, PermanentError, TransientError

if TYPE_CHECKING:
    from config import DownloadSettings

#: ``socket.getaddrinfo``, or a function with the same results.
Resolver = Callable[..., Sequence[tuple[Any, ...]]]

WEB_PORTS: Final = (80, 443)

#: Longest name resolution in the API, s.
RESOLVE_TIMEOUT: Final = 5.0

#: The same sentence for every reason: "refused here, timed out there" would map the network behind the service.
FORBIDDEN: Final = "the URL leads to a place that does not exist or that this service does not connect to"

#: ``getaddrinfo``'s errors for a name that does not exist, or has no address. Other errors may be temporary.
NO_SUCH_NAME: Final = (socket.EAI_NONAME, socket.EAI_NODATA)

_NAT64_INTERVAL: Final = 3600.0

#: Names with a meaning only inside a network (RFC 6761, RFC 6762, RFC 8375, ICANN's .internal and custom), among them
#: metadata services of clouds. So are names without a dot, which the resolver's search domains complete.
_LOCAL_SUFFIXES = (".localhost", ".local", ".localdomain", ".internal", ".intranet", ".lan", ".corp", ".home.arpa")


class UrlGuard:
    """Separates the public web from all other places. Thread-safe.

    ``allow_private`` opens loopback, private and CGNAT networks, names that have a meaning only inside them, and every
    port. ``allow_networks`` (``10.1.0.0/16`` …) opens only those networks, and such names if they lead there. Metadata
    services, link-local, multicast and reserved addresses stay closed. ``allow_hosts``, unless empty, is the allowlist
    of hosts: names in lower case, ``.example.org`` for every name under it, addresses. ``deny_hosts`` and
    ``deny_networks`` override every other list. ``resolver`` replaces ``socket.getaddrinfo``; ``resolve_timeout`` (s)
    limits it in ``check``.
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
        self._nat64: tuple[float, frozenset[IPv6Network]] = (-math.inf, frozenset())

    @classmethod
    def from_settings(
        cls, settings: DownloadSettings, *, any_host: bool = False, resolve_timeout: float = RESOLVE_TIMEOUT
    ) -> UrlGuard:
        """Return the guard of the settings. ``any_host`` ignores the allowlist of hosts: for URLs not from clients."""
        return cls(
            settings.allow_private_networks,
            settings.allow_ports,
            allow_hosts=() if any_host else settings.allow_hosts,
            deny_hosts=settings.deny_hosts,
            allow_networks=settings.allow_networks,
            deny_networks=settings.deny_networks,
            resolve_timeout=resolve_timeout,
        )

    @property
    def allows_private(self) -> bool:
        """Return whether URLs may lead into every private network."""
        return self._allow_private

    def check_syntax(self, url: str) -> ParsedUrl:
        """Parse ``url``. Raises PermanentError (``url_invalid``) unless it is a plain http(s) URL."""
        return parse_url(url)

    def check(self, url: str) -> ParsedUrl:
        """Parse and check ``url``, with the present answer of the DNS. Blocks.

        Raises PermanentError (``url_invalid`` or ``url_forbidden``), or TransientError (``source_unavailable``) when
        its name does not resolve; UnknownHostError if it does not exist. The answer may change at any time, so each
        connection checks its addresses again.
        """
        parsed = parse_url(url)
        try:
            call_bounded(lambda: self.addresses(parsed.host, parsed.port), timeout=self._resolve_timeout)
        except (OSError, UnicodeError) as error:
            is_unknown = isinstance(error, UnicodeError) or error.errno in NO_SUCH_NAME
            raise (UnknownHostError if is_unknown else TransientError)(
                "the host name of the URL cannot be resolved", code=ErrorCode.SOURCE_UNAVAILABLE
            ) from None
        return parsed

    def addresses(self, host: str, port: int) -> tuple[Address, ...]:
        """Resolve ``host`` once; return its addresses, all of which are allowed, in the resolver's order.

        Raises PermanentError (``url_forbidden``) if the port, the name or any of the addresses is not allowed, and the
        resolver's OSError.
        """
        literal = parse_address(host)
        is_open_port = self._allow_private or port in self._allowed_ports
        if not is_open_port:
            raise ForbiddenUrlError("the port is not in URL_ALLOW_PORTS")
        if not self._is_open_host(host, literal):
            raise ForbiddenUrlError("the host is in URL_DENY_HOSTS, not in URL_ALLOW_HOSTS, or a local name")
        if literal is not None:
            addresses: tuple[Address, ...] = (literal,)
        else:
            results = self._resolver(host, port, type=socket.SOCK_STREAM)
            addresses = tuple(dict.fromkeys(_address_of(result) for result in results))
            if not addresses:
                raise socket.gaierror(socket.EAI_NONAME, "the name has no address")
        # One forbidden address condemns the name: an attacker who mixes it in hopes that a connection will use it.
        if not all(self._is_open_address(address) for address in addresses):
            raise ForbiddenUrlError("an address of the host is private, reserved or in URL_DENY_NETWORKS")
        return addresses

    def _is_open_host(self, host: str, literal: Address | None) -> bool:
        name = host.lower().removesuffix(".")
        if _is_listed(name, self._deny_hosts):
            return False
        if self._allow_hosts:
            return _is_listed(name, self._allow_hosts) or (literal is not None and is_in(literal, self._allow_networks))
        # A local name is resolved only if an open private network exists to which it may lead.
        is_local = "." not in name or name.endswith(_LOCAL_SUFFIXES)
        return literal is not None or self._allow_private or bool(self._allow_networks) or not is_local

    def _is_open_address(self, address: Address) -> bool:
        if is_in(address, self._deny_networks):
            return False
        scope = address_scope(address)
        if isinstance(address, IPv6Address) and scope is AddressScope.PUBLIC:
            # A gateway of the operator's network translates these to IPv4, private addresses included.
            for prefix in self._nat64_prefixes():
                if address in prefix:
                    return self._is_open_address(embedded_ipv4(address, prefix.prefixlen))
        if scope is not AddressScope.PRIVATE:
            return scope is AddressScope.PUBLIC
        return self._allow_private or is_in(address, self._allow_networks)

    def _nat64_prefixes(self) -> frozenset[IPv6Network]:
        """Discover the NAT64 prefixes of this network, once an hour (RFC 7050). Blocks."""
        known_at, prefixes = self._nat64
        if time.monotonic() - known_at < _NAT64_INTERVAL:
            return prefixes
        try:
            results = self._resolver("ipv4only.arpa", 0, type=socket.SOCK_STREAM)
            prefixes = nat64_prefixes(map(_address_of, results))
        except OSError as error:
            if error.errno not in NO_SUCH_NAME:
                return prefixes  # ask again next time
        self._nat64 = time.monotonic(), prefixes
        return prefixes


class ForbiddenUrlError(PermanentError):
    """A URL that leads to a forbidden place. ``rule`` is for the operator's log; clients do not learn it."""

    def __init__(self, rule: str) -> None:
        super().__init__(FORBIDDEN, code=ErrorCode.URL_FORBIDDEN)
        self.rule = rule


class UnknownHostError(TransientError):
    """The host of a URL does not exist now, or has no address."""


def _is_listed(name: str, hosts: Collection[str]) -> bool:
    """Return whether ``hosts`` contains ``name`` itself, or a ``.suffix`` of it."""
    if name in hosts:
        return True
    labels = name.split(".")
    return any("." + ".".join(labels[first:]) in hosts for first in range(1, len(labels)))


def _address_of(result: tuple[Any, ...]) -> Address:
    family, *_, location = result
    address = parse_address(str(location[0])) if family in (socket.AF_INET, socket.AF_INET6) else None
    if address is None:
        raise ForbiddenUrlError("the host has an address that is no IP address")
    return address
