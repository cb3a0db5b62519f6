"""Tests of weighted fair queueing: the share of each topic, and the bound on its waiting time."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from config import load
from pipeline.topics import Topics
from pipeline.transport.fair_queue import StrideScheduler

weights = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 32), min_size=1)


def bound(weights: dict[str, int], topic: str) -> float:
    """Return the maximum number of selections until a topic that is always ready is selected."""
    others = [weight for other, weight in weights.items() if other != topic]
    return 1 + sum(other / weights[topic] + 1 for other in others)


def turn(scheduler: StrideScheduler, ready: list[str]) -> str:
    selected = scheduler.select(ready)
    scheduler.charge(selected)
    return selected


class TestShares:
    @given(weights)
    def test_ready_topics_are_selected_in_proportion_to_their_weights(self, weights: dict[str, int]) -> None:
        scheduler = StrideScheduler(weights)
        rounds = 20
        turns = Counter(turn(scheduler, list(weights)) for _ in range(rounds * sum(weights.values())))
        for topic, weight in weights.items():
            assert abs(turns[topic] - rounds * weight) <= len(weights)

    def test_single_ready_topic_is_always_selected(self) -> None:
        scheduler = StrideScheduler({"low": 1, "high": 16})
        assert {turn(scheduler, ["low"]) for _ in range(100)} == {"low"}

    def test_empty_topic_accumulates_no_credit(self) -> None:
        scheduler = StrideScheduler({"low": 1, "high": 16})
        for _ in range(1000):
            turn(scheduler, ["high"])
        turns = [turn(scheduler, ["low", "high"]) for _ in range(34)]
        assert turns.count("low") in (2, 3)

    def test_select_changes_nothing(self) -> None:
        scheduler = StrideScheduler({})
        assert {scheduler.select(["a", "b"]) for _ in range(10)} == {scheduler.select(["a", "b"])}


class TestStarvation:
    @given(weights, st.data())
    def test_ready_topic_is_selected_within_the_bound(self, weights: dict[str, int], data: st.DataObject) -> None:
        scheduler = StrideScheduler(weights)
        waiting = data.draw(st.sampled_from(sorted(weights)))
        others = sorted(set(weights) - {waiting})
        some_others = st.lists(st.sampled_from(others), unique=True) if others else st.just([])
        for _ in range(data.draw(st.integers(0, 40))):  # an arbitrary history
            if ready := data.draw(some_others):
                turn(scheduler, ready)
        turns = 1
        while turn(scheduler, [waiting, *data.draw(some_others)]) != waiting:
            turns += 1
            assert turns <= bound(weights, waiting)

    def test_bound_of_the_lowest_priority_matches_the_documentation(self) -> None:
        topics = Topics.from_settings(load(None))
        shares = {name: weight for name, weight in topics.weights.items() if name != topics.results}
        assert max(bound(shares, name) for name in shares) == 52
