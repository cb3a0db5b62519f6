"""How one file is served. It travels in the URL, so that one server serves all rows of the benchmark at once."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Self
from urllib.parse import parse_qsl, urlencode

MIB = 1024**2


@dataclass(frozen=True, slots=True)
class Profile:
    """Sizes in bytes, rates in bytes/s, times in s. Zero and the empty string: not limited, not done."""

    size: int
    rate: int = 0
    """Of each connection."""
    shared_rate: int = 0
    """Of all connections of a run together."""
    round_trip: float = 0.0
    """Waited before each answer; twice before the first one of a connection, whose handshake would take one."""
    congestion: str = ""
    """TCP's congestion control on the server's side, by the kernel's name for it."""
    fault: str = ""
    """A name in ``misbehaviour.FAULTS``."""

    def path(self, run: str) -> str:
        """The path and query of the file for ``run``, a word: runs have nothing in common but the server."""
        defaults = {field.name: field.default for field in fields(self)}
        query = {name: value for name, value in asdict(self).items() if value != defaults[name]}
        return f"/{run}/song.wav?{urlencode(query)}"

    @classmethod
    def parse(cls, query: str) -> Self:
        """The profile in a URL's query. Raises KeyError or ValueError if it was not made by ``path``."""
        given = dict(parse_qsl(query))
        return cls(
            size=int(given["size"]),
            rate=int(given.get("rate", 0)),
            shared_rate=int(given.get("shared_rate", 0)),
            round_trip=float(given.get("round_trip", 0)),
            congestion=given.get("congestion", ""),
            fault=given.get("fault", ""),
        )
