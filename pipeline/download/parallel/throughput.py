"""How fast one connection has been lately, and how long the rest will take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

#: Shortest time over which it is measured, s.
_WINDOW: Final = 0.04
#: Share of the newest measurement in what is told.
_NEWEST: Final = 0.5


class Latency(NamedTuple):
    """Of a source, from what its first answer took, s."""

    connecting: float = 0.0
    """To TCP's handshake, name look-up included."""
    answering: float = 0.0
    """From there to the head of the answer, TLS's handshake included."""

    @property
    def whole(self) -> float:
        """What it takes to be answered over a new connection."""
        return self.connecting + self.answering

    @property
    def round_trip(self) -> float:
        """What it takes to be answered over one that there is.

        Half of the whole: the other half is connecting, wherever on the way that is done. A handshake of which a packet
        was lost takes a second more, which tells nothing.
        """
        return min(self.whole / 2, self.answering)


class ThroughputEstimator:
    """Of the connections of one download, which are taken to be equally fast."""

    def __init__(self, now: float, received: int) -> None:
        self._mark = (now, received)
        self.each = 0.0
        """Bytes/s of one connection; 0 as long as nothing is known."""

    def see(self, now: float, received: int, delivering: int) -> None:
        """``received``: bytes so far, ``delivering``: how many connections they come over."""
        since, before = self._mark
        if not delivering or now - since < _WINDOW:
            return
        rate = (received - before) / (now - since) / delivering
        self.each = rate if not self.each else self.each + (rate - self.each) * _NEWEST
        self._mark = (now, received)

    def time_left(self, missing: int, delivering: int, waits: Sequence[float]) -> float:
        """Until ``missing`` bytes have come, s. ``waits``: when the connections that do not deliver yet will, s."""
        if not self.each or not delivering:
            return math.inf
        wait = sum(waits) / len(waits) if waits else 0.0
        alone = missing / self.each / delivering
        return alone if alone <= wait else (missing / self.each + len(waits) * wait) / (delivering + len(waits))
