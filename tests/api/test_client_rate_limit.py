"""The rate limit per client, compared with a plain model of a token bucket, and its bounds."""

from __future__ import annotations

import threading
import tracemalloc
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.client_rate_limit import ClientRateLimit
from tests.api.http_client import DEADLINE


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def within_limit(rate_limit: ClientRateLimit, client: str) -> bool:
    with rate_limit.reserve(client) as answer:
        return answer


def test_a_burst_and_one_more_every_refill() -> None:
    clock = Clock()
    rate_limit = ClientRateLimit(3, 10.0, clock=clock)

    assert [within_limit(rate_limit, "a") for _ in range(5)] == [True, True, True, False, False]
    clock.now += 9.75
    assert not within_limit(rate_limit, "a")
    clock.now += 0.25
    assert [within_limit(rate_limit, "a") for _ in range(2)] == [True, False]
    clock.now += 1_000_000
    assert [within_limit(rate_limit, "a") for _ in range(5)] == [True, True, True, False, False]


def test_ten_thousand_jobs_of_one_client_do_not_limit_another() -> None:
    rate_limit = ClientRateLimit(10, 30.0, clock=Clock())

    assert sum(within_limit(rate_limit, "many") for _ in range(10_000)) == 10
    assert within_limit(rate_limit, "single")


def test_a_failed_publication_spends_nothing() -> None:
    rate_limit = ClientRateLimit(1, 30.0, clock=Clock())

    for _ in range(5):
        with pytest.raises(ConnectionError, match="within the limit: True"), rate_limit.reserve("a") as answer:
            raise ConnectionError(f"within the limit: {answer}")

    assert within_limit(rate_limit, "a")
    assert not within_limit(rate_limit, "a")


def test_concurrent_publications_do_not_share_a_token() -> None:
    rate_limit = ClientRateLimit(10, 30.0, clock=Clock())
    together = threading.Barrier(32)

    def queue() -> bool:
        with rate_limit.reserve("a") as answer:
            together.wait(DEADLINE)
            return answer

    with ThreadPoolExecutor(32) as pool:
        answers = [future.result(DEADLINE) for future in [pool.submit(queue) for _ in range(32)]]

    assert sum(answers) == 10


@dataclass
class Bucket:
    """A textbook token bucket."""

    burst: int
    refill: float
    tokens: float = field(init=False)
    held: int = 0
    seen: float = 0.0

    def __post_init__(self) -> None:
        self.tokens = self.burst

    def drip(self, now: float) -> None:
        self.tokens = min(self.burst, self.tokens + (now - self.seen) / self.refill)
        self.seen = now


@dataclass
class Trial:
    """Publications of several clients that start and then succeed or fail; every decision is checked."""

    burst: int
    refill: float
    clock: Clock = field(default_factory=Clock)
    waiting: list[tuple[str, AbstractContextManager[bool], bool]] = field(default_factory=list)
    """The client, its reservation, and whether it is within the limit."""
    queued: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """The times of successful publications within the limit, by client."""

    def __post_init__(self) -> None:
        self.rate_limit = ClientRateLimit(self.burst, self.refill, clock=self.clock)
        self.buckets = defaultdict[str, Bucket](lambda: Bucket(self.burst, self.refill))

    def begin(self, client: str) -> None:
        bucket, place = self.buckets[client], self.rate_limit.reserve(client)
        bucket.drip(self.clock.now)
        answer = place.__enter__()
        assert answer == (bucket.tokens - bucket.held >= 1)
        bucket.held += answer
        self.waiting.append((client, place, answer))

    def end(self, number: int, well: bool) -> None:
        if not self.waiting:
            return
        client, place, answer = self.waiting.pop(number % len(self.waiting))
        error = None if well else ConnectionError()
        assert not place.__exit__(type(error) if error else None, error, None)
        if answer:
            self.buckets[client].drip(self.clock.now)
            self.buckets[client].held -= 1
            self.buckets[client].tokens -= well
            self.queued[client] += [self.clock.now] * well

    def wait(self, seconds: float) -> None:
        self.clock.now += seconds


#: Powers of two, so that sums are exact.
_REFILLS = st.sampled_from([0.25, 0.5, 1.0, 4.0])
_STEPS = st.lists(
    st.builds(lambda client: lambda trial: trial.begin(client), st.sampled_from("abc"))
    | st.builds(lambda number, well: lambda trial: trial.end(number, well), st.integers(0, 9), st.booleans())
    | st.builds(lambda ticks: lambda trial: trial.wait(ticks / 4), st.integers(0, 20)),
    max_size=60,
)


@given(st.integers(1, 4), _REFILLS, _STEPS)
@settings(max_examples=200, deadline=None, database=None)
def test_never_more_than_a_burst_plus_the_refill(
    burst: int, refill: float, steps: list[Callable[[Trial], None]]
) -> None:
    trial = Trial(burst, refill)
    for step in steps:
        step(trial)

    for moments in trial.queued.values():
        for first, begin in enumerate(moments):
            for last, end in enumerate(moments[first:], first):
                assert last - first + 1 <= burst + (end - begin) / refill


_NAMES = st.sampled_from("abc")


@given(st.lists(st.tuples(_NAMES, st.integers(0, 8)), max_size=60))
@settings(max_examples=100, deadline=None, database=None)
def test_decisions_do_not_depend_on_other_clients(jobs: list[tuple[str, int]]) -> None:
    clock = Clock()
    together, alone = ClientRateLimit(2, 1.0, clock=clock), ClientRateLimit(2, 1.0, clock=clock)

    for client, ticks in jobs:
        clock.now += ticks / 4
        answer = within_limit(together, client)
        if client == "a":
            assert answer == within_limit(alone, client)


def test_the_fullest_buckets_are_evicted_first() -> None:
    clock = Clock()
    rate_limit = ClientRateLimit(3, 10.0, max_clients=3, clock=clock)
    for client in ("empty", "empty", "one left", "one left", "empty", "two left"):
        assert within_limit(rate_limit, client)

    for stranger in range(100):
        assert within_limit(rate_limit, f"stranger {stranger}")

    assert not within_limit(rate_limit, "empty")
    assert [within_limit(rate_limit, "one left") for _ in range(2)] == [True, False]


def test_a_reserved_token_delays_eviction() -> None:
    rate_limit = ClientRateLimit(2, 10.0, max_clients=2, clock=Clock())

    with rate_limit.reserve("slow") as first, rate_limit.reserve("slow") as second:
        assert first
        assert second
        for stranger in range(10):
            assert within_limit(rate_limit, f"stranger {stranger}")

    assert not within_limit(rate_limit, "slow")


def test_memory_is_bounded_by_max_clients() -> None:
    rate_limit = ClientRateLimit(2, 10.0, max_clients=10)
    tracemalloc.start()
    try:
        for number in range(5000):
            within_limit(rate_limit, f"client {number}")
            within_limit(rate_limit, f"client {number % 7}")
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert held < 50_000
