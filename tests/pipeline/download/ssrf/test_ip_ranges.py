"""The classification of addresses: the edges of every range, and agreement with the standard library."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.download.ssrf.ip_ranges import (
    AddressScope,
    address_scope,
    embedded_ipv4,
    nat64_prefixes,
    parse_address,
)

EDGES = {
    AddressScope.PUBLIC: """
        1.0.0.0 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 168.63.129.15
        168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0 192.0.3.0
        192.88.98.255 192.88.100.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 198.51.99.255 198.51.101.0
        203.0.112.255 203.0.114.0 223.255.255.255
        2000:: 2001:200:: 2001:db7:ffff:ffff:ffff:ffff:ffff:ffff 2001:db9:: 2003:: 3ffe:ffff:: 3fff:1000::
        2606:4700::1111
    """,
    AddressScope.PRIVATE: """
        10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 127.0.0.0 127.255.255.255 172.16.0.0 172.31.255.255
        192.168.0.0 192.168.255.255 ::1 fc00:: fd12:3456:789a::1 fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
    """,
    AddressScope.NEVER: """
        0.0.0.0 0.255.255.255 100.100.100.200 168.63.129.16 169.254.0.0 169.254.169.254 169.254.255.255 192.0.0.0
        192.0.0.255 192.0.2.0 192.0.2.255 192.88.99.0 192.88.99.255 198.18.0.0 198.19.255.255 198.51.100.0 203.0.113.255
        224.0.0.0 239.255.255.255 240.0.0.0 255.255.255.255
        :: ::2 ::127.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:8.8.8.8 64:ff9b::7f00:1 64:ff9b::808:808
        64:ff9b:1::a9fe:a9fe 100::1 1fff:ffff:: 2001:: 2001:0:53aa:64c::1 2001:1ff:ffff:: 2001:db8:: 2001:db8:ffff::
        2606:4700::5efe:7f00:1 2606:4700::200:5efe:c0a8:1 2a00:1:2:3:0:5efe:808:808
        2002:: 2002:7f00:1:: 2002:808:808:: 3fff:: 3fff:fff:: 4000:: 5f00::1 fd00:ec2::254 fd20:ce::254
        fd00:c1::a9fe:a9fe fd00:42::42 fe80::1 fe80::1%eth0 fec0::1 ff02::1 2606:4700::1111%eth0
    """,
}


@pytest.mark.parametrize(
    ("text", "expected"), [(text, scope) for scope, texts in EDGES.items() for text in texts.split()]
)
def test_edges_of_the_ranges(text: str, expected: AddressScope) -> None:
    assert address_scope(ip_address(text)) is expected


@settings(deadline=None)
@given(st.ip_addresses())
def test_public_addresses_are_global_in_the_standard_library(address: IPv4Address | IPv6Address) -> None:
    if address_scope(address) is AddressScope.PUBLIC:
        assert address.is_global
        assert not address.is_multicast


@pytest.mark.parametrize(
    "text", ["0177.0.0.1", "0x7f.0.0.1", "127.1", "2130706433", "127.0.0.01", "127.0.0.1.", "127.0.0.１", "", "::g"]
)
def test_unusual_spellings_are_rejected(text: str) -> None:
    assert parse_address(text) is None


@pytest.mark.parametrize(
    ("answer", "prefix"),
    [
        ("64:ff9b::192.0.0.170", "64:ff9b::/96"),
        ("2a00:1:2:3:4:5:192.0.0.171", "2a00:1:2:3:4:5::/96"),
        ("2001:db8:122:344:c0:0:aa00::", "2001:db8:122:344::/64"),
        ("2001:db8:122:3c0:0:aa::", "2001:db8:122:300::/56"),
        ("2001:db8:122:c000:0:aa00::", "2001:db8:122::/48"),
        ("2001:db8:1c0:0:aa::", "2001:db8:100::/40"),
        ("2001:db8:c000:aa::", "2001:db8::/32"),
    ],
)
def test_prefix_of_a_translator_is_found_by_a_known_name(answer: str, prefix: str) -> None:
    """The layouts of RFC 6052 section 2.2."""
    found = nat64_prefixes([ip_address(answer), ip_address("192.0.0.170")])
    assert found == {IPv6Network(prefix)}
    assert {embedded_ipv4(IPv6Address(answer), network.prefixlen) for network in found} <= {
        IPv4Address("192.0.0.170"),
        IPv4Address("192.0.0.171"),
    }


def test_network_without_a_translator_has_no_prefix() -> None:
    assert nat64_prefixes([ip_address("192.0.0.170"), ip_address("192.0.0.171")]) == frozenset()
