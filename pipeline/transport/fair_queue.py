"""Weighted fair queueing among topics, without a clock."""

from __future__ import annotations

from collections.abc import Collection, Mapping


class StrideScheduler:
    """Selects the next topic in proportion to the topics' weights (stride scheduling). Not thread-safe.

    Stride scheduling (Waldspurger and Weihl, 1995): each topic has a stride of 1/weight and a pass that grows by the
    stride with each message taken. The topic with the smallest pass is next. A topic that becomes ready after having
    been empty starts at the current pass, so it accumulates no credit while it is empty.

    No topic starves. A topic of weight w that is always ready is selected at least once in ``1 + Σ (wᵢ/w + 1)``
    selections; the sum is over the weights wᵢ of the other topics.
    """

    def __init__(self, weights: Mapping[str, int]) -> None:
        self._strides = {topic: 1.0 / weight for topic, weight in weights.items()}
        self._passes: dict[str, float] = {}
        self._current_pass = 0.0

    def select(self, ready: Collection[str]) -> str:
        """Return the topic that is next among the topics with messages (at least one), without changing any state."""
        return min(
            ready,
            key=lambda topic: (max(self._passes.get(topic, 0.0), self._current_pass), self._strides.get(topic, 1.0)),
        )

    def charge(self, topic: str) -> None:
        """Record that a message of ``topic`` was taken."""
        self._current_pass = max(self._passes.get(topic, 0.0), self._current_pass)
        self._passes[topic] = self._current_pass + self._strides.get(topic, 1.0)
