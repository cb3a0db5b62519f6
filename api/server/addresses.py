"""Addresses of clients, as the limits count them."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address, ip_network

#: A client with IPv6 usually controls a whole network of this size (RFC 6177), bits.
_IPV6_PREFIX = 64


def client_group(host: str) -> str:
    """Return the unit that shares one limit: an IPv4 address, or the /64 network of an IPv6 address.

    Any other text, such as a name that a trusted proxy forwards, is a unit of its own.
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ip_network((address, _IPV6_PREFIX), strict=False))


class TrustedProxies:
    """The reverse proxies in front of the API, as networks such as ``10.0.0.0/8``."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = tuple(map(ip_network, networks))

    def __contains__(self, host: str) -> bool:
        try:
            address = ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)
