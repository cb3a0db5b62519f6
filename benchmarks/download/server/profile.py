"""The settings of a served file. They are part of the URL, so that one server serves all rows of the benchmark."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Self
from urllib.parse import parse_qsl, urlencode

MIB = 1024**2


@dataclass(frozen=True, slots=True)
class Profile:
    """Sizes in bytes, rates in bytes/s, times in s. Zero and the empty string disable a setting."""

    size: int
    rate: int = 0
    """Limit of each connection."""
    shared_rate: int = 0
    """Limit of all connections of a run together."""
    round_trip: float = 0.0
    """Delay before each response; twice before the first one of a connection, to include its handshake."""
    congestion: str = ""
    """The server's TCP congestion control, by its name in the kernel."""
    fault: str = ""
    """A name in ``misbehaviour.FAULTS``."""

    def path(self, run: str) -> str:
        """Return path and query of the file for ``run``, a single word."""
        defaults = {field.name: field.default for field in fields(self)}
        query = {name: value for name, value in asdict(self).items() if value != defaults[name]}
        return f"/{run}/song.wav?{urlencode(query)}"

    @classmethod
    def parse(cls, query: str) -> Self:
        """Parse the query of a URL made by ``path``. Raises KeyError or ValueError if it is malformed."""
        given = dict(parse_qsl(query))
        return cls(
            size=int(given["size"]),
            rate=int(given.get("rate", 0)),
            shared_rate=int(given.get("shared_rate", 0)),
            round_trip=float(given.get("round_trip", 0)),
            congestion=given.get("congestion", ""),
            fault=given.get("fault", ""),
        )
