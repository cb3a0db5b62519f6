"""How fast a connection is, and how long the rest takes: arithmetic."""

from __future__ import annotations

import math

import pytest

from pipeline.download.parallel.throughput import ThroughputEstimator

MB = 1_000_000


def test_each_connection_has_its_share() -> None:
    pace = ThroughputEstimator(0.0, 0)
    pace.see(0.5, 4 * MB, 4)
    assert pace.each == 2 * MB


def test_what_is_new_counts_as_much_as_all_before() -> None:
    pace = ThroughputEstimator(0.0, 0)
    pace.see(1.0, 2 * MB, 1)
    pace.see(2.0, 2 * MB, 1)
    assert pace.each == 1 * MB


def test_nothing_is_known_before_anything_has_come() -> None:
    pace = ThroughputEstimator(0.0, 0)
    pace.see(1.0, 0, 0)
    pace.see(0.001, MB, 1)
    assert (pace.each, pace.time_left(MB, 1, [])) == (0, math.inf)


@pytest.mark.parametrize(
    ("delivering", "waits", "expected"),
    [
        (1, [], 10.0),
        (2, [], 5.0),
        (1, [2.0], 6.0),  # 2 s alone, and 8 MB over two
        (1, [10.0], 10.0),  # it comes too late
        (1, [1.0, 3.0], 14 / 3),
        (0, [1.0], math.inf),
    ],
)
def test_those_that_do_not_deliver_yet_will(delivering: int, waits: list[float], expected: float) -> None:
    pace = ThroughputEstimator(0.0, 0)
    pace.see(1.0, MB, 1)
    assert pace.time_left(10 * MB, delivering, waits) == pytest.approx(expected)
