"""The number of connections, found by trying, on a simulated network."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from pipeline.download.parallel.concurrency import FAST, MAX_STEP, MIN_REMAINING, TARGET_REMAINING, ConnectionScaler

MB = 1e6

Network = Callable[[int, float], float]
"""Total bytes/s of a number of connections at a time in s."""


def run(
    network: Network,
    *,
    max_level: int = 16,
    missing: float = 1000 * MB,
    seconds: float = 3.0,
    max_step: int = MAX_STEP,
) -> list[int]:
    """Return the level over time, sampled 20 times a second."""
    scaler = ConnectionScaler(max_level, max_step=max_step)
    received, levels = 0.0, []
    for tick in range(int(seconds * 20)):
        now = tick / 20
        received += network(scaler.level, now) / 20
        scaler.tick(now, int(received), int(missing - received), settled=True)
        levels.append(scaler.level)
    return levels


def per_connection(rate: float) -> Network:
    return lambda level, now: level * rate


def shared(total: float, rate: float | None = None) -> Network:
    return lambda level, now: min(level * rate, total) if rate else total


def test_limit_per_connection_leads_to_the_maximum() -> None:
    levels = run(per_connection(2 * MB))
    assert levels[-1] == 16
    assert levels[8] == 16, "soon"


def test_shared_limit_leads_to_one_connection() -> None:
    levels = run(shared(20 * MB))
    assert max(levels) > 1
    assert levels[-1] == 1
    assert sum(level > 1 for level in levels) < 15, "soon"


def test_shared_limit_that_several_connections_reach_keeps_several() -> None:
    assert 3 <= run(shared(6 * MB, 2 * MB), max_level=32)[-1] <= 6


def test_no_more_connections_than_the_target_time_needs() -> None:
    missing = 3 * 20 * MB * TARGET_REMAINING
    assert max(run(per_connection(20 * MB), missing=missing, seconds=0.25)) <= 3


@pytest.mark.parametrize(
    ("rate", "missing"), [(2 * MB, 2 * MB * MIN_REMAINING), (FAST * 2, 1000 * MB)], ids=["short", "fast"]
)
def test_one_connection_suffices(rate: float, missing: float) -> None:
    assert max(run(per_connection(rate), missing=missing, seconds=0.6)) == 1


def test_max_step_limits_the_first_trial() -> None:
    assert max(run(shared(20 * MB))) == 4
    assert max(run(shared(20 * MB), max_step=16)) == 16


def test_maximum_of_one_connection_is_kept() -> None:
    assert set(run(per_connection(1 * MB), max_level=1)) == {1}


def test_initial_burst_does_not_decide_permanently() -> None:
    """A full token bucket speeds the first connection up; afterwards each connection gets its rate."""
    levels = run(lambda level, now: 50 * MB if now < 0.5 else level * 2 * MB, seconds=4)
    assert levels[-1] == 16


def test_failed_trial_is_repeated_with_growing_pauses() -> None:
    levels = run(shared(5 * MB), seconds=60)
    trials = sum(before == 1 < after for before, after in pairwise(levels))
    assert 2 <= trials <= 4


def test_refusal_by_the_source_ends_the_growth() -> None:
    scaler = ConnectionScaler(16)
    scaler.level = 8
    scaler.refuse(3)
    for tick in range(100):
        scaler.tick(tick / 20, tick * 100_000, 10**9, settled=True)
        assert scaler.level == 3


def test_trial_is_judged_when_all_connections_deliver_or_at_its_deadline() -> None:
    scaler = ConnectionScaler(16)
    for tick in range(5):
        scaler.tick(tick / 20, tick * 100_000, 10**9, settled=True)
    level = scaler.level
    assert level > 1
    for tick in range(5, 60):
        scaler.tick(tick / 20, tick * 100_000, 10**9, settled=False)
        assert scaler.level == level
    for tick in range(60, 90):
        scaler.tick(tick / 20, tick * 100_000, 10**9, settled=False)
    assert scaler.level == 1
