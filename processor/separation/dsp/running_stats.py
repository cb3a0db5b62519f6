"""Mean and spread of a signal that is never in memory as a whole."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from processor.audio.wav import Samples


@dataclass(slots=True)
class RunningStats:
    """Of the samples so far.

    Each block is taken about its own mean and joined to what was before (Chan, Golub, LeVeque, "Updating formulae and
    a pairwise algorithm for computing sample variances", 1979), in float64: unlike a sum of squares, nothing is lost
    where the mean is large against the spread. The spread of a constant is 0.
    """

    count: int = 0
    mean: float = 0.0
    _squares: float = 0.0
    """Sum of the squared distances from the mean."""

    def add(self, block: Samples) -> None:
        """Take the next samples, one-dimensional; at least one."""
        mean = float(np.mean(block, dtype=np.float64))
        count = self.count + len(block)
        apart = mean - self.mean
        self._squares += float(np.square(block - np.float64(mean)).sum())
        self._squares += apart * apart * self.count * len(block) / count
        self.mean += apart * len(block) / count
        self.count = count

    @property
    def std(self) -> float:
        """The standard deviation, with one less than the count for a divisor; 0 of a single sample."""
        return math.sqrt(self._squares / (self.count - 1)) if self.count > 1 else 0.0
