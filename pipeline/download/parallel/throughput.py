"""Latency of a source, and throughput of one connection to it."""

from __future__ import annotations

from typing import Final, NamedTuple

#: Minimum time of one measurement, s.
_WINDOW: Final = 0.04
#: Weight of the newest measurement.
_SMOOTHING: Final = 0.5


class Latency(NamedTuple):
    """Times of the first request to a source, s."""

    connecting: float = 0.0  # name resolution and TCP handshake
    answering: float = 0.0  # from there to the response head, TLS handshake included

    @property
    def whole(self) -> float:
        """Time to a response over a new connection."""
        return self.connecting + self.answering

    @property
    def round_trip(self) -> float:
        """Time to a response over an open connection: half of the whole, since connecting takes a round trip as well.

        A handshake that lost a packet takes a second longer, which the minimum ignores.
        """
        return min(self.whole / 2, self.answering)


class ThroughputEstimator:
    """Estimates the rate of one of several connections, assumed equally fast."""

    def __init__(self, now: float, received: int) -> None:
        self._mark = (now, received)
        self.per_connection = 0.0
        """Bytes/s of one connection; 0 while unknown."""

    def update(self, now: float, received: int, delivering: int) -> None:
        """Add a measurement: ``received`` bytes so far, over ``delivering`` connections now."""
        since, before = self._mark
        if not delivering or now - since < _WINDOW:
            return
        rate = (received - before) / (now - since) / delivering
        self.per_connection += (rate - self.per_connection) * (_SMOOTHING if self.per_connection else 1.0)
        self._mark = (now, received)
