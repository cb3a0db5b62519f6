"""Weighted turns: everybody's share, and the bound after which nobody waits."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from config import Settings
from pipeline.topics import Topics
from pipeline.transport.fair_queue import StrideScheduler

weights = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 32), min_size=1)


def bound(weights: dict[str, int], topic: str) -> float:
    """Turns after which a topic that always has something had one."""
    others = [weight for other, weight in weights.items() if other != topic]
    return 1 + sum(other / weights[topic] + 1 for other in others)


def turn(scheduler: StrideScheduler, candidates: list[str]) -> str:
    chosen = scheduler.select(candidates)
    scheduler.charge(chosen)
    return chosen


class TestShares:
    @given(weights)
    def test_topics_that_always_have_something_share_by_weight(self, weights: dict[str, int]) -> None:
        scheduler = StrideScheduler(weights)
        rounds = 20
        turns = Counter(turn(scheduler, list(weights)) for _ in range(rounds * sum(weights.values())))
        for topic, weight in weights.items():
            assert abs(turns[topic] - rounds * weight) <= len(weights)

    def test_who_is_alone_gets_every_turn(self) -> None:
        scheduler = StrideScheduler({"low": 1, "high": 16})
        assert {turn(scheduler, ["low"]) for _ in range(100)} == {"low"}

    def test_nothing_is_saved_up_while_there_is_nothing(self) -> None:
        scheduler = StrideScheduler({"low": 1, "high": 16})
        for _ in range(1000):
            turn(scheduler, ["high"])
        turns = [turn(scheduler, ["low", "high"]) for _ in range(34)]
        assert turns.count("low") in (2, 3)

    def test_asking_changes_nothing(self) -> None:
        scheduler = StrideScheduler({})
        assert {scheduler.select(["a", "b"]) for _ in range(10)} == {scheduler.select(["a", "b"])}


class TestNobodyStarves:
    @given(weights, st.data())
    def test_a_topic_that_has_something_gets_its_turn_within_the_bound_whatever_the_others_do(
        self, weights: dict[str, int], data: st.DataObject
    ) -> None:
        scheduler = StrideScheduler(weights)
        waiting = data.draw(st.sampled_from(sorted(weights)))
        others = sorted(set(weights) - {waiting})
        some_others = st.lists(st.sampled_from(others), unique=True) if others else st.just([])
        for _ in range(data.draw(st.integers(0, 40))):  # whatever was before
            if candidates := data.draw(some_others):
                turn(scheduler, candidates)
        turns = 1
        while turn(scheduler, [waiting, *data.draw(some_others)]) != waiting:
            turns += 1
            assert turns <= bound(weights, waiting)

    def test_the_bound_of_the_lowest_priority_is_what_the_documentation_says(self) -> None:
        topics = Topics.from_settings(Settings(None))
        shares = {name: weight for name, weight in topics.weights.items() if name != topics.results}
        assert max(bound(shares, name) for name in shares) == 52
