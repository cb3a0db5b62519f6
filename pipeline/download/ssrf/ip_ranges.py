"""Classification of IP addresses as public, private or never reachable.

The tables are part of this project because ``ipaddress.is_private`` and ``is_global`` differ between Python versions,
both exclude CGNAT, and neither covers metadata services. They follow IANA's IPv4 and IPv6 Special-Purpose Address
Registries: an address that is not globally reachable there is not public.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class AddressScope(Enum):
    """The scope of an address."""

    PUBLIC = "public"
    PRIVATE = "private"  # this machine or its networks: an operator may open them
    NEVER = "never"  # no sources or webhooks, and some give away credentials


#: Cloud metadata services, which answer any process on the machine, often with credentials. Most have link-local
#: addresses, which are never reachable anyway; these have public or private ones.
_METADATA: tuple[Network, ...] = (
    IPv4Network("100.100.100.200/32"),  # Alibaba Cloud, in CGNAT space
    IPv4Network("168.63.129.16/32"),  # Azure's wire server, in public space
    IPv6Network("fd00:ec2::/32"),  # AWS: metadata ::254, DNS ::253, time ::123
    IPv6Network("fd20:ce::254/128"),  # Google Cloud
    IPv6Network("fd00:c1::a9fe:a9fe/128"),  # Oracle Cloud
    IPv6Network("fd00:42::42/128"),  # Scaleway
)

_PRIVATE: tuple[Network, ...] = (
    IPv4Network("10.0.0.0/8"),  # private use, RFC 1918
    IPv4Network("100.64.0.0/10"),  # shared address space of carriers (CGNAT), RFC 6598
    IPv4Network("127.0.0.0/8"),  # loopback, RFC 1122
    IPv4Network("172.16.0.0/12"),  # private use, RFC 1918
    IPv4Network("192.168.0.0/16"),  # private use, RFC 1918
    IPv6Network("::1/128"),  # loopback, RFC 4291
    IPv6Network("fc00::/7"),  # unique local, RFC 4193
)

_NEVER_V4: tuple[IPv4Network, ...] = (
    IPv4Network("0.0.0.0/8"),  # "this network", RFC 791; Linux treats 0.0.0.0 as this machine
    IPv4Network("169.254.0.0/16"),  # link-local with the metadata services, RFC 3927
    IPv4Network("192.0.0.0/24"),  # IETF protocol assignments, RFC 6890
    IPv4Network("192.0.2.0/24"),  # documentation, RFC 5737
    IPv4Network("192.88.99.0/24"),  # 6to4 relay anycast, deprecated by RFC 7526
    IPv4Network("198.18.0.0/15"),  # benchmarking, RFC 2544
    IPv4Network("198.51.100.0/24"),  # documentation, RFC 5737
    IPv4Network("203.0.113.0/24"),  # documentation, RFC 5737
    IPv4Network("224.0.0.0/4"),  # multicast, RFC 5771
    IPv4Network("240.0.0.0/4"),  # reserved, RFC 1112, with the limited broadcast, RFC 919
)

#: Global unicast, RFC 4291: the only part of IPv6 that IANA allocates. It excludes, among others, ::/128, the
#: IPv4-mapped ::ffff:0:0/96 and IPv4-compatible ::/96 (RFC 4291), both NAT64 prefixes 64:ff9b::/96 (RFC 6052) and
#: 64:ff9b:1::/48 (RFC 8215), discard-only 100::/64 (RFC 6666), SRv6 SIDs 5f00::/16 (RFC 9602), link-local fe80::/10,
#: site-local fec0::/10 (RFC 3879) and multicast ff00::/8.
_GLOBAL_V6 = IPv6Network("2000::/3")

_NEVER_V6: tuple[IPv6Network, ...] = (
    IPv6Network("2001::/23"),  # IETF protocol assignments, RFC 2928: Teredo (RFC 4380), ORCHID, benchmarking
    IPv6Network("2001:db8::/32"),  # documentation, RFC 3849
    IPv6Network("2002::/16"),  # 6to4, which embeds an IPv4 address, RFC 3056
    IPv6Network("3fff::/20"),  # documentation, RFC 9637
)

#: Interface identifiers of ISATAP, RFC 5214 section 6.1, which end in an IPv4 address of the inside.
_ISATAP = (0x00005EFE, 0x02005EFE)
#: The addresses of ``ipv4only.arpa``, RFC 7050 section 2.2.
_IPV4ONLY = (IPv4Address("192.0.0.170"), IPv4Address("192.0.0.171"))


def address_scope(address: Address) -> AddressScope:
    """Return the scope of ``address``. Addresses that embed an IPv4 address are never reachable."""
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return AddressScope.NEVER  # a zone names an interface of this machine
    if is_in(address, _METADATA):
        return AddressScope.NEVER
    if is_in(address, _PRIVATE):
        return AddressScope.PRIVATE
    if isinstance(address, IPv4Address):
        is_global = not is_in(address, _NEVER_V4)
    else:
        is_isatap = int(address) >> 32 & 0xFFFFFFFF in _ISATAP
        is_global = address in _GLOBAL_V6 and not is_in(address, _NEVER_V6) and not is_isatap
    return AddressScope.PUBLIC if is_global else AddressScope.NEVER


def embedded_ipv4(address: IPv6Address, length: int) -> IPv4Address:
    """Return the IPv4 address after a NAT64 prefix of ``length`` bits (RFC 6052 section 2.2)."""
    octets = address.packed[length // 8 :] if length == 96 else address.packed[length // 8 : 8] + address.packed[9:]
    return IPv4Address(octets[:4])


def nat64_prefixes(answers: Iterable[Address]) -> frozenset[IPv6Network]:
    """Return the NAT64 prefixes that the addresses of ``ipv4only.arpa`` show (RFC 7050 section 3)."""
    return frozenset(
        IPv6Network((address, length), strict=False)
        for address in answers
        if isinstance(address, IPv6Address)
        for length in (32, 40, 48, 56, 64, 96)
        if embedded_ipv4(address, length) in _IPV4ONLY
    )


def parse_address(text: str) -> Address | None:
    """Parse an address in its full form; return None for octal, hexadecimal and short IPv4 forms."""
    try:
        return ip_address(text)
    except ValueError:
        return None


def is_in(address: Address, networks: Sequence[Network]) -> bool:
    """Return whether one of ``networks`` contains ``address``."""
    return any(address.version == network.version and address in network for network in networks)
