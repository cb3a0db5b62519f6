"""Exponential backoff with jitter, as pure data."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with equal jitter: delay ∈ [d/2, d], d = min(cap, base·2ⁿ⁻¹).

    The fixed lower half prevents immediate retries. The jitter prevents workers that failed together from retrying
    together.
    """

    base: float
    """First delay in s."""
    cap: float
    """Maximum delay in s."""

    def delay(self, failures: int, rng: random.Random) -> float:
        """Return the delay before the next try, s, after ``failures`` ≥ 1 failed tries in a row."""
        # A bounded exponent keeps the float from overflowing in an outage of days.
        ceiling = min(self.cap, self.base * 2.0 ** min(failures - 1, 60))
        return ceiling * (0.5 + 0.5 * rng.random())
