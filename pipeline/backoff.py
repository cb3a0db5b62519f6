"""Exponential back-off with jitter, as pure data."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off with full jitter on its upper half: delay ∈ [d/2, d], d = min(cap, base·2ⁿ⁻¹).

    The lower half is kept so that a retry never comes at once, the jitter so that workers which failed together
    do not come back together.
    """

    base: float
    """First delay in s."""
    cap: float
    """Longest delay in s."""

    def delay(self, failures: int, rng: random.Random) -> float:
        """Delay in s before the next try, after ``failures`` ≥ 1 tries in a row have failed."""
        # The exponent is bounded so that an outage of days cannot overflow the float.
        ceiling = min(self.cap, self.base * 2.0 ** min(failures - 1, 60))
        return ceiling * (0.5 + 0.5 * rng.random())
