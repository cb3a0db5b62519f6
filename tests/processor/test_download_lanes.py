"""Slow downloads: which of them end early, which are deferred, and that quick ones are left alone."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from pipeline.download import DownloadProgress
from pipeline.errors import DeferredError, ErrorCode, TransientError
from processor.download_lanes import GRACE, SLOW, DownloadLanes, Lane

TIMEOUT = 600.0
MB = 10**6


class Clock:
    """The time of a test, s."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def report(lane: Lane, clock: Clock, received: Iterable[int], total: int | None, interval: float = 2.0) -> None:
    """Pass on reports of the numbers of received bytes, one every ``interval`` s."""
    begun = clock.now
    for count in received:
        clock.now += interval
        lane.check(DownloadProgress(count, total, clock.now - begun))


def at_rate(rate: float, seconds: float, interval: float = 2.0) -> list[int]:
    return [round(rate * interval * step) for step in range(1, int(seconds / interval) + 1)]


@pytest.mark.parametrize("total", [5 * MB, None])
def test_source_that_sends_a_byte_every_five_seconds_ends_after_the_grace(total: int | None) -> None:
    clock = Clock()
    with DownloadLanes(4, TIMEOUT).lane(clock) as lane, pytest.raises(TransientError) as caught:
        report(lane, clock, range(1, 100), total, interval=5.0)
    assert (caught.value.code, isinstance(caught.value, DeferredError)) == (ErrorCode.SOURCE_TIMEOUT, False)
    assert clock.now - 1000.0 <= GRACE + 5.0


@pytest.mark.parametrize(("rate", "total"), [(1 * MB, 50 * MB), (100_000, 50 * MB), (2_000, None), (8, 1_000)])
def test_source_that_can_finish_in_time_is_left_alone(rate: float, total: int | None) -> None:
    clock = Clock()
    with DownloadLanes(4, TIMEOUT).lane(clock) as lane:
        report(lane, clock, at_rate(rate, min(60.0, (total or 10**9) / rate)), total)


def test_late_begin_and_slow_start_are_no_low_rate() -> None:
    """The first bytes come after 30 s, and few of them; then the source is quick."""
    clock = Clock()
    with DownloadLanes(4, TIMEOUT).lane(clock) as lane:
        lane.check(DownloadProgress(10, 50 * MB, 30.0))
        clock.now += GRACE - 1
        lane.check(DownloadProgress(20, 50 * MB, 30.0 + GRACE - 1))
        clock.now += 2
        lane.check(DownloadProgress(2 * MB, 50 * MB, 31.0 + GRACE))


def test_source_that_stops_sending_ends_early() -> None:
    clock = Clock()
    sentence = "too slowly to be downloaded within 600 s"
    with DownloadLanes(4, TIMEOUT).lane(clock) as lane, pytest.raises(TransientError, match=sentence) as caught:
        report(lane, clock, [1 * MB] * 10, 5 * MB)
    assert caught.value.code is ErrorCode.SOURCE_TIMEOUT


def test_latest_rate_counts_even_between_reports_in_quick_succession() -> None:
    clock = Clock()
    with DownloadLanes(4, TIMEOUT).lane(clock) as lane:
        report(lane, clock, [10, 20], 500 * MB, interval=GRACE - 0.1)
        report(lane, clock, [2 * MB], 500 * MB, interval=0.5)
        report(lane, clock, [100 * MB], 500 * MB, interval=0.0)


def test_slow_downloads_leave_one_lane_free() -> None:
    """Each can finish within its limit, but takes longer than ``SLOW``."""
    lanes, slow = DownloadLanes(4, TIMEOUT), at_rate(100_000, GRACE + 4)
    total = round(100_000 * (SLOW * 3))

    def watched(limit: int) -> None:
        """Hold ``limit`` slow downloads at a time, and begin one more."""
        clock = Clock()
        with lanes.lane(clock) as lane:
            report(lane, clock, slow, total)
            if limit:
                watched(limit - 1)

    watched(2)
    with pytest.raises(DeferredError) as caught:
        watched(3)
    assert caught.value.code is ErrorCode.SOURCE_SLOW
    watched(2)  # those that ended hold no lane


def test_download_that_becomes_quick_gives_its_place_to_another() -> None:
    lanes, clock, other = DownloadLanes(2, TIMEOUT), Clock(), Clock()
    with lanes.lane(clock) as first, lanes.lane(other) as second:
        report(first, clock, at_rate(100_000, GRACE + 4), 20 * MB)
        report(first, clock, [19 * MB], 20 * MB)
        report(second, other, at_rate(100_000, GRACE + 4), 20 * MB)


def test_one_of_two_lanes_is_left_free() -> None:
    lanes, clock, other = DownloadLanes(2, TIMEOUT), Clock(), Clock()
    with lanes.lane(clock) as first, lanes.lane(other) as second:
        report(first, clock, at_rate(100_000, GRACE + 4), 20 * MB)
        with pytest.raises(DeferredError, match="other slow downloads have to end first"):
            report(second, other, at_rate(100_000, GRACE + 4), 20 * MB)


def test_single_lane_takes_slow_downloads() -> None:
    clock = Clock()
    with DownloadLanes(1, TIMEOUT).lane(clock) as lane:
        report(lane, clock, at_rate(100_000, 60), 20 * MB)
