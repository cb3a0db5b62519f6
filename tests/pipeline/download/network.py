"""A simulated network: a table of host names, and public addresses that lead to a server on loopback."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from pipeline.download.http.session import dial_tcp
from pipeline.download.ssrf.ip_ranges import Address
from tests.support.source_server import SourceServer

PUBLIC = "93.184.216.34"
PUBLIC_6 = "2606:2800:220:1:248:1893:25c8:1946"

#: The successive answers to lookups of one name; the last one is repeated.
Answers = Sequence[Sequence[str]]


class Names:
    """A resolver that behaves like ``socket.getaddrinfo``, with answers from a table."""

    def __init__(self, table: Mapping[str, Answers]) -> None:
        self._pending = {name: list(answers) for name, answers in table.items()}
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, **_hints: object) -> list[tuple[Any, ...]]:
        self.asked.append(host)
        answers = self._pending.get(host)
        if answers is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [_answer(address, port) for address in (answers.pop(0) if len(answers) > 1 else answers[0])]


def _answer(address: str, port: int) -> tuple[Any, ...]:
    family, location = (socket.AF_INET6, (address, port, 0, 0)) if ":" in address else (socket.AF_INET, (address, port))
    return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", location


@dataclass
class Detour:
    """A dialler that records the requested address and connects to a server on loopback instead."""

    servers: Mapping[int, SourceServer]
    """Servers by the dialled port."""
    dialled: list[str] = field(default_factory=list)

    def __call__(self, address: Address, port: int, timeout: float) -> socket.socket:
        self.dialled.append(str(address))
        return dial_tcp(ip_address("127.0.0.1"), self.servers[port].port, timeout)
