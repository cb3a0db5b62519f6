"""Rate limits: bytes per time, shared by all readers; cancellations and deadlines end the waits."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import DownloadSettings
from pipeline.cancellation import CancelToken
from pipeline.download.http.rate_limit import BURST, RateLimit
from pipeline.errors import CancelledError, ErrorCode

HOUR = 3600.0
DEADLINE = 20.0


class Sleeper(CancelToken):
    """A token whose waits return at once and advance its clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def clock(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return super().wait(0)


def elapsed(limit_total: float | None, limit_per_host: float | None, takes: list[tuple[str, int]]) -> float:
    """Return the time (s) that one reader needs for all ``takes``."""
    sleeper = Sleeper()
    limit = RateLimit(limit_total, limit_per_host, clock=sleeper.clock)
    for host, amount in takes:
        limit.take(host, amount, sleeper, sleeper.now + HOUR)
    return sleeper.now - 1000.0


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 5000)), min_size=1, max_size=30))
def test_rate_is_neither_exceeded_nor_missed(takes: list[tuple[str, int]]) -> None:
    total = sum(amount for _, amount in takes)
    heaviest = max(sum(amount for host, amount in takes if host == name) for name in "ab")
    assert elapsed(1000, None, takes) == pytest.approx(max(total / 1000 - BURST, 0))
    # While one reader waits for a host, the buckets of the other hosts fill: no slower than all takes in sequence.
    assert max(heaviest / 1000 - BURST, 0) - 1e-6 <= elapsed(None, 1000, takes) <= total / 1000 + 1e-6
    assert elapsed(None, None, takes) == 0


def test_stricter_limit_decides() -> None:
    takes = [("a", 1000)] * 10
    assert elapsed(1000, 100, takes) == pytest.approx(elapsed(None, 100, takes))
    assert elapsed(100, 1000, takes) == pytest.approx(elapsed(100, None, takes))


def test_unused_time_does_not_accumulate() -> None:
    sleeper = Sleeper()
    limit = RateLimit(1000, None, clock=sleeper.clock)
    limit.take("a", 100, sleeper, sleeper.now + HOUR)
    sleeper.now += HOUR
    before = sleeper.now
    limit.take("a", 2000, sleeper, sleeper.now + HOUR)
    assert sleeper.now - before == pytest.approx(2.0 - BURST)


def test_idle_hosts_are_removed() -> None:
    sleeper = Sleeper()
    limit = RateLimit(None, 1000, clock=sleeper.clock)
    for number in range(1000):
        limit.take(f"{number}.test", 10, sleeper, sleeper.now + HOUR)
        sleeper.now += 1
    assert len(limit._hosts) <= 2


def test_workers_share_one_limit() -> None:
    limit = RateLimit(200_000, None)
    workers = [threading.Thread(target=_take_all, args=(limit, f"{name}.test")) for name in "abcd"]
    started = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(DEADLINE)
    # 100 kB at 200 kB/s, less the initial burst.
    assert time.monotonic() - started >= 0.5 - BURST


def _take_all(limit: RateLimit, host: str) -> None:
    for _ in range(5):
        limit.take(host, 5000, CancelToken(), time.monotonic() + HOUR)


def test_cancellation_ends_the_wait() -> None:
    cancel = CancelToken()
    limit = RateLimit(1, None)
    threading.Timer(0.05, cancel.cancel, (ErrorCode.SHUTTING_DOWN,)).start()
    with pytest.raises(CancelledError):
        limit.take("a", 1_000_000, cancel, time.monotonic() + HOUR)


def test_cancelled_job_takes_nothing_even_without_a_wait() -> None:
    cancel = CancelToken()
    cancel.cancel(ErrorCode.SHUTTING_DOWN)
    with pytest.raises(CancelledError):
        RateLimit(None, None).take("a", 1, cancel, time.monotonic() + HOUR)


def test_deadline_ends_the_wait() -> None:
    sleeper = Sleeper()
    limit = RateLimit(1, None, clock=sleeper.clock)
    limit.take("a", 1_000_000, sleeper, sleeper.now + 5)
    assert sleeper.now == 1005.0


@pytest.mark.parametrize(
    ("total", "per_host", "size"),
    [(None, None, 1_000_000), (100_000, None, 25_000), (None, 40_000, 10_000), (10, 10, 4096)],
)
def test_slow_limits_use_small_reads(total: float | None, per_host: float | None, size: int) -> None:
    assert RateLimit(total, per_host).read_size(1_000_000) == size
    assert RateLimit(total, per_host).read_size(100) == 100


@pytest.mark.parametrize(("total", "per_host"), [(0, 0), (5, 0), (0, 5)])
def test_zero_means_no_limit(total: int, per_host: int) -> None:
    settings = DownloadSettings(rate_limit=total, rate_limit_per_host=per_host)
    limit = RateLimit.from_settings(settings)
    assert (limit is not None) == bool(total or per_host)
    assert limit is None or limit.read_size(1_000_000) == (4096)
