"""Mean and standard deviation of a signal that is never in memory as a whole."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from processor.audio.wav import Samples


@dataclass(slots=True)
class RunningStats:
    """Statistics of all samples added so far.

    The statistics of each block are computed about its own mean and merged with the previous ones (Chan, Golub,
    LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979), in float64. Unlike a
    sum of squares, this loses no precision where the mean is large compared to the standard deviation. The standard
    deviation of a constant is 0.
    """

    count: int = 0
    mean: float = 0.0
    _squares: float = 0.0
    """Sum of the squared differences from the mean."""

    def add(self, block: Samples) -> None:
        """Add the next samples, one-dimensional; at least one."""
        mean = float(np.mean(block, dtype=np.float64))
        count = self.count + len(block)
        difference = mean - self.mean
        self._squares += float(np.square(block - np.float64(mean)).sum())
        self._squares += difference * difference * self.count * len(block) / count
        self.mean += difference * len(block) / count
        self.count = count

    @property
    def std(self) -> float:
        """The sample standard deviation (divisor ``count - 1``); 0 for a single sample."""
        return math.sqrt(self._squares / (self.count - 1)) if self.count > 1 else 0.0
