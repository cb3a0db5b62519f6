"""How fast one connection has been lately, and how long the rest will take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

#: Shortest time over which it is measured, s.
_WINDOW: Final = 0.04
#: Share of the newest measurement in what is told.
_NEWEST: Final = 0.5


class Pace:
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
