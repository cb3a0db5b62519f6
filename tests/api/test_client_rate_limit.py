"""Who may put a job in front: against a plain model of a token bucket, and its bounds."""

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


def in_front(fairness: ClientRateLimit, client: str) -> bool:
    with fairness.place(client) as answer:
        return answer


def test_a_burst_goes_in_front_and_one_more_every_refill() -> None:
    clock = Clock()
    fairness = ClientRateLimit(3, 10.0, clock=clock)

    assert [in_front(fairness, "a") for _ in range(5)] == [True, True, True, False, False]
    clock.now += 9.75
    assert not in_front(fairness, "a")
    clock.now += 0.25
    assert [in_front(fairness, "a") for _ in range(2)] == [True, False]
    clock.now += 1_000_000
    assert [in_front(fairness, "a") for _ in range(5)] == [True, True, True, False, False]


def test_ten_thousand_jobs_of_one_client_leave_the_place_of_another() -> None:
    fairness = ClientRateLimit(10, 30.0, clock=Clock())

    assert sum(in_front(fairness, "many") for _ in range(10_000)) == 10
    assert in_front(fairness, "single")


def test_a_job_that_was_not_queued_costs_nothing() -> None:
    fairness = ClientRateLimit(1, 30.0, clock=Clock())

    for _ in range(5):
        with pytest.raises(ConnectionError, match="in front: True"), fairness.place("a") as answer:
            raise ConnectionError(f"in front: {answer}")

    assert in_front(fairness, "a")
    assert not in_front(fairness, "a")


def test_jobs_that_are_queued_at_the_same_moment_do_not_share_a_place() -> None:
    fairness = ClientRateLimit(10, 30.0, clock=Clock())
    together = threading.Barrier(32)

    def queue() -> bool:
        with fairness.place("a") as answer:
            together.wait(DEADLINE)
            return answer

    with ThreadPoolExecutor(32) as pool:
        answers = [future.result(DEADLINE) for future in [pool.submit(queue) for _ in range(32)]]

    assert sum(answers) == 10


@dataclass
class Bucket:
    """As textbooks have it: tokens that drip in."""

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
    """Jobs of some clients, each of which begins and ends to be queued, well or badly; every answer is checked."""

    burst: int
    refill: float
    clock: Clock = field(default_factory=Clock)
    waiting: list[tuple[str, AbstractContextManager[bool], bool]] = field(default_factory=list)
    """Client, place, whether it is one in front."""
    queued: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By client, when one of his jobs was queued in front."""

    def __post_init__(self) -> None:
        self.fairness = ClientRateLimit(self.burst, self.refill, clock=self.clock)
        self.buckets = defaultdict[str, Bucket](lambda: Bucket(self.burst, self.refill))

    def begin(self, client: str) -> None:
        bucket, place = self.buckets[client], self.fairness.place(client)
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


#: Powers of two, so that sums of them are exact.
_REFILLS = st.sampled_from([0.25, 0.5, 1.0, 4.0])
_STEPS = st.lists(
    st.builds(lambda client: lambda trial: trial.begin(client), st.sampled_from("abc"))
    | st.builds(lambda number, well: lambda trial: trial.end(number, well), st.integers(0, 9), st.booleans())
    | st.builds(lambda ticks: lambda trial: trial.wait(ticks / 4), st.integers(0, 20)),
    max_size=60,
)


@given(st.integers(1, 4), _REFILLS, _STEPS)
@settings(max_examples=200, deadline=None, database=None)
def test_never_more_in_front_than_a_burst_and_what_has_come_free_since(
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
def test_what_a_client_is_told_depends_on_no_other_client(jobs: list[tuple[str, int]]) -> None:
    clock = Clock()
    together, alone = ClientRateLimit(2, 1.0, clock=clock), ClientRateLimit(2, 1.0, clock=clock)

    for client, ticks in jobs:
        clock.now += ticks / 4
        answer = in_front(together, client)
        if client == "a":
            assert answer == in_front(alone, client)


def test_of_too_many_clients_those_are_forgotten_to_whom_it_makes_the_least_difference() -> None:
    clock = Clock()
    fairness = ClientRateLimit(3, 10.0, clients=3, clock=clock)
    for client in ("empty", "empty", "one left", "one left", "empty", "two left"):
        assert in_front(fairness, client)

    for stranger in range(100):
        assert in_front(fairness, f"stranger {stranger}")

    assert not in_front(fairness, "empty")
    assert [in_front(fairness, "one left") for _ in range(2)] == [True, False]


def test_a_client_whose_job_is_being_queued_is_not_forgotten_as_if_he_had_none() -> None:
    fairness = ClientRateLimit(2, 10.0, clients=2, clock=Clock())

    with fairness.place("slow") as first, fairness.place("slow") as second:
        assert first
        assert second
        for stranger in range(10):
            assert in_front(fairness, f"stranger {stranger}")

    assert not in_front(fairness, "slow")


def test_memory_is_bounded_by_the_number_of_clients() -> None:
    fairness = ClientRateLimit(2, 10.0, clients=10)
    tracemalloc.start()
    try:
        for number in range(5000):
            in_front(fairness, f"client {number}")
            in_front(fairness, f"client {number % 7}")
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert held < 50_000
