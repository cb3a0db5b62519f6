"""Which of several topics is taken from next: weighted fair queueing, without a clock."""

from __future__ import annotations

from collections.abc import Collection, Mapping


class WeightedChoice:
    """Shares turns among the topics that have something, in proportion to their weights. Not thread-safe.

    Stride scheduling (Waldspurger and Weihl, 1995): each topic has a pass that grows by 1/weight with each turn, and
    the smallest pass is next. A topic that comes back after having had nothing starts at the present pass, so that it
    has saved up nothing.

    No topic starves: one of weight w that always has something gets a turn at least once in
    ``1 + Σ (wᵢ/w + 1)`` turns, the sum over the other topics' weights wᵢ.
    """

    def __init__(self, weights: Mapping[str, int]) -> None:
        self._strides = {topic: 1.0 / weight for topic, weight in weights.items()}
        self._passes: dict[str, float] = {}
        self._now = 0.0

    def choose(self, candidates: Collection[str]) -> str:
        """Whose turn it is among the topics that have something (at least one). Asking changes nothing."""
        return min(candidates, key=lambda topic: (self._pass(topic), self._stride(topic)))

    def took(self, topic: str) -> None:
        """The topic had its turn."""
        self._now = self._pass(topic)
        self._passes[topic] = self._now + self._stride(topic)

    def _pass(self, topic: str) -> float:
        # Who comes back after having had nothing starts now.
        return max(self._passes.get(topic, 0.0), self._now)

    def _stride(self, topic: str) -> float:
        return self._strides.get(topic, 1.0)
