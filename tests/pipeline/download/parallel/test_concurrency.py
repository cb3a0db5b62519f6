"""How many connections: as many as bring something, found by trying, on a network of arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from pipeline.download.parallel.concurrency import FAST, SOON, WORTHWHILE, ConnectionScaler

MB = 1e6

Network = Callable[[int, float], float]
"""Bytes/s of so many connections at such a time."""


def run(
    network: Network, *, most: int = 16, missing: float = 1000 * MB, seconds: float = 3.0, patient: bool = True
) -> list[int]:
    """The level over time, looked at 20 times a second."""
    growth = ConnectionScaler(most, patient=patient)
    received, levels = 0.0, []
    for tick in range(int(seconds * 20)):
        now = tick / 20
        received += network(growth.level, now) / 20
        growth.tick(now, int(received), int(missing - received), settled=True)
        levels.append(growth.level)
    return levels


def each(rate: float) -> Network:
    return lambda level, now: level * rate


def shared(rate: float, of_each: float | None = None) -> Network:
    return lambda level, now: min(level * of_each, rate) if of_each else rate


def test_a_limit_on_each_connection_is_met_with_as_many_as_there_may_be() -> None:
    levels = run(each(2 * MB))
    assert levels[-1] == 16
    assert levels[8] == 16, "soon"


def test_a_limit_on_all_together_leaves_one() -> None:
    levels = run(shared(20 * MB))
    assert max(levels) > 1
    assert levels[-1] == 1
    assert sum(level > 1 for level in levels) < 15, "soon"


def test_a_limit_on_all_that_some_reach_leaves_some() -> None:
    assert 3 <= run(shared(6 * MB, 2 * MB), most=32)[-1] <= 6


def test_no_more_than_it_takes_to_be_done_soon() -> None:
    assert max(run(each(20 * MB), missing=3 * 20 * MB * SOON, seconds=0.25)) <= 3


@pytest.mark.parametrize(
    ("rate", "missing"), [(2 * MB, 2 * MB * WORTHWHILE), (FAST * 2, 1000 * MB)], ids=["short", "fast"]
)
def test_one_is_enough(rate: float, missing: float) -> None:
    assert max(run(each(rate), missing=missing, seconds=0.6)) == 1


def test_few_are_tried_first_unless_every_trial_takes_long() -> None:
    assert max(run(shared(20 * MB))) == 4
    assert max(run(shared(20 * MB), patient=False)) == 16


def test_one_connection_stays_one() -> None:
    assert set(run(each(1 * MB), most=1)) == {1}


def test_a_burst_at_the_start_does_not_decide_for_ever() -> None:
    """A bucket that was full lets the first connection run, then each gets its rate."""
    levels = run(lambda level, now: 50 * MB if now < 0.5 else level * 2 * MB, seconds=4)
    assert levels[-1] == 16


def test_a_trial_that_failed_is_repeated_rarely() -> None:
    levels = run(shared(5 * MB), seconds=60)
    trials = sum(before == 1 < after for before, after in pairwise(levels))
    assert 2 <= trials <= 4


def test_a_source_that_refuses_ends_the_growth() -> None:
    growth = ConnectionScaler(16)
    growth.level = 8
    growth.refuse(3)
    for tick in range(100):
        growth.tick(tick / 20, tick * 100_000, 10**9, settled=True)
        assert growth.level == 3


def test_nothing_is_judged_before_all_deliver_unless_it_takes_too_long() -> None:
    growth = ConnectionScaler(16)
    for tick in range(5):
        growth.tick(tick / 20, tick * 100_000, 10**9, settled=True)
    level = growth.level
    assert level > 1
    for tick in range(5, 60):
        growth.tick(tick / 20, tick * 100_000, 10**9, settled=False)
        assert growth.level == level
    for tick in range(60, 90):
        growth.tick(tick / 20, tick * 100_000, 10**9, settled=False)
    assert growth.level == 1
