"""Waiting jobs keep within the limit; the first of them is never held up; nobody waits for ever."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack

import pytest

from pipeline.cancellation import CancelToken
from pipeline.errors import CancelledError, ErrorCode
from pipeline.service.shutdown import StopSignal
from processor.disk_budget import DiskBudget, DiskReservation
from tests.processor.worker_threads import DEADLINE, Lanes, open_lanes

LIMIT = 100


class Bench:
    """A budget of 100 bytes and jobs in its line."""

    def __init__(self, lanes: Lanes, stack: ExitStack) -> None:
        self.lanes = lanes
        self._stack = stack
        self.stop = StopSignal(DEADLINE)
        self.budget = DiskBudget(LIMIT, self.stop)

    def job(self) -> DiskReservation:
        """The next in the line."""
        return self._stack.enter_context(self.budget.place())

    def ask(self, place: DiskReservation, wanted: int, cancel: CancelToken | None = None) -> Future[None]:
        return self.lanes.start(place.ask_for, wanted, cancel or CancelToken())


@pytest.fixture
def bench() -> Iterator[Bench]:
    with open_lanes() as lanes, ExitStack() as stack:
        bench = Bench(lanes, stack)
        yield bench
        bench.stop.request("the test is over")


def is_held_up(asking: Future[None]) -> bool:
    """As far as can be seen: it is in a thread that would have gone on long since."""
    threading.Event().wait(0.05)
    return not asking.done()


def test_the_first_gets_more_than_the_limit(bench: Bench) -> None:
    first = bench.job()
    bench.ask(first, 10 * LIMIT).result(DEADLINE)
    assert bench.budget.held == 10 * LIMIT


def test_the_others_get_what_fits(bench: Bench) -> None:
    first, second, third = bench.job(), bench.job(), bench.job()
    bench.ask(first, 40).result(DEADLINE)
    bench.ask(second, 60).result(DEADLINE)
    asking = bench.ask(third, 1)
    assert is_held_up(asking)
    second.keep(59)
    asking.result(DEADLINE)
    assert bench.budget.held == LIMIT


def test_as_many_are_first_as_there_are_children(bench: Bench) -> None:
    """Each of them might have to wait for one."""
    bench.budget = DiskBudget(LIMIT, bench.stop, children=2)
    first, second, third = bench.job(), bench.job(), bench.job()
    for place in (first, second):
        bench.ask(place, 10 * LIMIT).result(DEADLINE)
    asking = bench.ask(third, 1)
    assert is_held_up(asking)
    with second.at_the_device():
        asking.result(DEADLINE)


def test_what_a_job_has_counts_once_when_it_asks_for_more(bench: Bench) -> None:
    first, second = bench.job(), bench.job()
    first.keep(40)
    bench.ask(second, 50).result(DEADLINE)
    bench.ask(second, 60).result(DEADLINE)
    assert is_held_up(bench.ask(second, 61))


def test_who_comes_to_the_device_makes_room_and_the_next_is_first(bench: Bench) -> None:
    first, second, third = bench.job(), bench.job(), bench.job()
    first.keep(90)
    asking, too_much = bench.ask(second, 2 * LIMIT), bench.ask(third, LIMIT + 1)
    assert is_held_up(asking)
    with first.at_the_device():
        asking.result(DEADLINE)
    # What is separated waits for its hand-off, and holds up nobody.
    assert bench.budget.held == 2 * LIMIT
    assert is_held_up(too_much)
    with second.at_the_device():
        too_much.result(DEADLINE)


def test_who_has_to_come_again_is_back_in_his_place(bench: Bench) -> None:
    first, second = bench.job(), bench.job()
    first.keep(90)
    with pytest.raises(ZeroDivisionError), first.at_the_device():
        raise ZeroDivisionError
    assert bench.budget.held == 90
    assert is_held_up(bench.ask(second, 20))
    bench.ask(first, 5 * LIMIT).result(DEADLINE)


def test_who_leaves_makes_room(bench: Bench) -> None:
    with bench.budget.place() as first:
        first.keep(90)
        second, third = bench.job(), bench.job()
        asking = bench.ask(third, 80)
        assert is_held_up(asking)
    asking.result(DEADLINE)
    assert is_held_up(bench.ask(third, LIMIT + 1))
    bench.ask(second, LIMIT + 1).result(DEADLINE)


def failure(asking: Future[None]) -> ErrorCode:
    error = asking.exception(DEADLINE)
    assert isinstance(error, CancelledError)
    return error.code


def test_one_who_is_cancelled_does_not_wait(bench: Bench) -> None:
    first, second, cancel = bench.job(), bench.job(), CancelToken()
    first.keep(90)
    asking = bench.ask(second, 20, cancel)
    cancel.cancel(ErrorCode.DELIVERY_LOST)
    assert failure(asking) is ErrorCode.DELIVERY_LOST
    assert second.bytes == 0


def test_when_the_service_stops_nobody_waits(bench: Bench) -> None:
    first, second, third = bench.job(), bench.job(), bench.job()
    first.keep(90)
    asking = bench.ask(second, 20)
    bench.stop.request("test")
    assert failure(asking) is ErrorCode.SHUTTING_DOWN
    assert failure(bench.ask(third, 11)) is ErrorCode.SHUTTING_DOWN
    bench.ask(third, 10).result(DEADLINE)


@pytest.mark.parametrize("limit", [1, 100, 1000])
def test_however_they_come_the_limit_is_kept_and_all_get_through(limit: int) -> None:
    """Jobs of every size fetch, decode and come to the one device, in the order in which they happen to be ready."""
    budget, device = DiskBudget(limit, StopSignal(DEADLINE)), threading.Lock()
    beyond: list[int] = []

    def look() -> None:
        with budget._room:
            waiting = [place for place in budget._line if place.waiting]
            beyond.append(sum(place.bytes for place in waiting[1:]))

    def lane(seed: int) -> int:
        rng = random.Random(seed)
        for _ in range(30):
            with budget.place() as place:
                for _stage in range(2):
                    place.ask_for(rng.randrange(1, 60), CancelToken())
                    look()
                    place.keep(rng.randrange(place.bytes + 1))
                with device, place.at_the_device():
                    look()
        return 30

    with open_lanes() as lanes:
        assert sum(end.result(DEADLINE) for end in [lanes.start(lane, seed) for seed in range(6)]) == 180
    assert max(beyond) <= limit
    assert budget.held == 0
