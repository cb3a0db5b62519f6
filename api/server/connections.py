"""The open connections of one port: their number is limited, and so is the time that each waits for its client."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from operator import attrgetter
from typing import Protocol

from api.server.addresses import TrustedProxies, client_group

#: Descriptors that the rest of the process needs: the broker, the store, the log, libraries that are being loaded.
RESERVED_DESCRIPTORS = 96
#: More descriptors than the limits of any sensible configuration need.
_MAX_DESCRIPTORS = 65_536
#: Part of a limit that is closed at once when the limit is reached, so that the search for the longest waiting
#: connections costs little for each new connection.
_EVICTED_SHARE = 64
#: Time that each connection has in any case before it is closed for a new one, s: enough to send a small request. It
#: limits how many connections others can displace in a second.
GRACE = 0.02


class Wait(Enum):
    """What a connection waits for, if not for the service itself."""

    REQUEST = "request"
    """The rest of a header, or the next request."""
    BODY = "body"
    READER = "reader"
    """The client reads the response too slowly, or not at all."""


class Connection(Protocol):
    """A connection as its limits see it."""

    peer: str
    """Address of the client, or of its proxy."""
    waits_since: float
    """Time on the event loop's clock, s, since when it waits."""

    @property
    def waits_for(self) -> Wait | None:
        """Return what it waits for; None while the service works on a request."""

    def time_out(self) -> None:
        """Close the connection, with an answer if the protocol allows one."""

    def abort(self) -> None:
        """Close the connection at once."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """``total`` and ``per_address``: open connections. ``request_timeout`` and ``write_timeout``: s.

    A connection is closed when a header or a body is incomplete after ``request_timeout``, or when the client has not
    read the next part of a response (48 KiB) within ``write_timeout``. ``exempt`` have no limit per address.
    """

    total: int
    per_address: int
    request_timeout: float
    write_timeout: float
    exempt: TrustedProxies

    def timeout(self, wait: Wait) -> float:
        """Return the longest ``wait``, s."""
        return self.write_timeout if wait is Wait.READER else self.request_timeout


class Connections:
    """The open connections of one port. Only the event loop's thread may use it."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._open: dict[Connection, str] = {}  # With the group of its client.
        self._by_group: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection) -> None:
        """Count a connection that was made."""
        group = self._open[connection] = client_group(connection.peer)
        self._by_group[group] += 1

    def discard(self, connection: Connection) -> None:
        """Forget a connection that was closed."""
        group = self._open.pop(connection)
        self._by_group[group] -= 1
        if not self._by_group[group]:
            del self._by_group[group]

    def make_room(self, peer: str, now: float) -> float | None:
        """Return the time after which ``peer`` may open one more connection, s: 0 now, None not in the near future.

        At a limit, the connections that have waited longest for their clients are closed, first those of the same
        address. The answer is None if the service works on a request of every one of them. ``now``: on the event
        loop's clock, s.
        """
        group, limits = client_group(peer), self._limits
        if self._by_group[group] >= limits.per_address and peer not in limits.exempt:
            of_group = [connection for connection, its_group in self._open.items() if its_group == group]
            return self._evict(of_group, limits.per_address, now)
        return 0.0 if len(self._open) < limits.total else self.evict(now)

    def evict(self, now: float) -> float | None:
        """Close the connections that have waited longest, whatever their address; the result is as above."""
        return self._evict(self._open.keys(), self._limits.total, now)

    def close_overdue(self, now: float) -> None:
        """Close every connection that has waited longer than its limit. ``now``: on the event loop's clock, s."""
        for connection in tuple(self._open):
            wait = connection.waits_for
            if wait is not None and now - connection.waits_since > self._limits.timeout(wait):
                connection.time_out()

    @staticmethod
    def _evict(candidates: Collection[Connection], limit: int, now: float) -> float | None:
        waiting = [connection for connection in candidates if connection.waits_for is not None]
        if not waiting:
            return None
        waiting.sort(key=attrgetter("waits_since"))
        overdue = [item for item in waiting[: limit // _EVICTED_SHARE + 1] if now - item.waits_since >= GRACE]
        for connection in overdue:
            connection.abort()
        return 0.0 if overdue else GRACE


def available_connections(wanted: int) -> int:
    """Raise the limit of open files as far as allowed; return how many of ``wanted`` connections it suffices for.

    Each connection may need a second descriptor, for the file that is sent to its client.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = _MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MAX_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(min(wanted, (soft - RESERVED_DESCRIPTORS) // 2), 1)
