"""One at a time, in order; nobody waits who is cancelled or whose service stops."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

import pytest

from pipeline.cancellation import CancelToken
from pipeline.errors import CancelledError, ErrorCode
from pipeline.service.shutdown import StopSignal
from processor.stop_condition import StoppableCondition
from processor.workers.dispatcher import Dispatcher
from tests.processor.worker_threads import DEADLINE, WorkerThreads, eventually, open_worker_threads


class Bench:
    """A gate, and lanes that stay at the device until they are told to leave."""

    def __init__(self, lanes: WorkerThreads) -> None:
        self.lanes = lanes
        self.stop = StopSignal(DEADLINE)
        self.dispatcher = Dispatcher(StoppableCondition(self.stop), ["device"], lambda free, _: next(iter(free), None))
        self.served: list[str] = []
        self._leave: dict[str, threading.Event] = {}

    def come(self, name: str, cancel: CancelToken | None = None) -> Future[None]:
        """A lane comes to the gate; returns when it stands in the line."""
        before = len(self.dispatcher._line)
        self._leave[name] = threading.Event()
        lane = self.lanes.start(self._work, name, cancel or CancelToken())
        eventually(lambda: len(self.dispatcher._line) == before + 1 or lane.done())
        return lane

    def _work(self, name: str, cancel: CancelToken) -> None:
        with self.dispatcher.lease(cancel):
            self.served.append(name)
            assert self._leave[name].wait(DEADLINE)

    def leave(self, name: str) -> None:
        eventually(lambda: name in self.served)
        self._leave[name].set()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with open_worker_threads() as lanes:
        yield Bench(lanes)


def reason(lane: Future[None]) -> ErrorCode:
    """Why the lane did not wait."""
    error = lane.exception(DEADLINE)
    assert isinstance(error, CancelledError)
    return error.code


def test_those_who_wait_are_served_in_their_order(bench: Bench) -> None:
    names = ["first", "second", "third", "fourth"]
    lanes = [bench.come(name) for name in names]
    for number, name in enumerate(names, 1):
        eventually(lambda number=number: len(bench.served) == number)  # type: ignore[misc]
        assert bench.served == names[:number]
        bench.leave(name)
    for lane in lanes:
        lane.result(DEADLINE)


def test_one_who_is_cancelled_leaves_the_line(bench: Bench) -> None:
    cancel = CancelToken()
    bench.come("first")
    second = bench.come("second", cancel)
    bench.come("third")
    cancel.cancel(ErrorCode.DELIVERY_LOST)
    assert reason(second) is ErrorCode.DELIVERY_LOST
    bench.leave("first")
    bench.leave("third")
    assert bench.served == ["first", "third"]


def test_one_who_comes_cancelled_does_not_get_in(bench: Bench) -> None:
    cancel = CancelToken()
    cancel.cancel(ErrorCode.DELIVERY_LOST)
    assert reason(bench.come("late", cancel)) is ErrorCode.DELIVERY_LOST
    assert bench.served == []


def test_when_the_service_stops_nobody_waits(bench: Bench) -> None:
    first = bench.come("first")
    waiting = [bench.come("second"), bench.come("third")]
    bench.stop.request("test")
    assert [reason(lane) for lane in waiting] == [ErrorCode.SHUTTING_DOWN] * 2
    assert reason(bench.come("late")) is ErrorCode.SHUTTING_DOWN
    bench.leave("first")
    first.result(DEADLINE)
    assert bench.served == ["first"]


def test_a_stopping_service_still_has_a_free_device(bench: Bench) -> None:
    """What was fetched already may be done within the grace."""
    bench.stop.request("test")
    lane = bench.come("prepared")
    bench.leave("prepared")
    lane.result(DEADLINE)


def test_one_who_fails_makes_way(bench: Bench) -> None:
    with pytest.raises(ZeroDivisionError), bench.dispatcher.lease(CancelToken()):
        raise ZeroDivisionError
    second = bench.come("second")
    bench.leave("second")
    second.result(DEADLINE)


def test_both_waits_are_told(bench: Bench) -> None:
    with bench.dispatcher.lease(CancelToken()) as lease:
        assert 0 <= lease.waited < DEADLINE
        bench.come("second")
        seen = bench.lanes.start(lambda: bench.dispatcher.lease(CancelToken()).__enter__())
        eventually(lambda: len(bench.dispatcher._line) == 3)
        pause = 0.05
        threading.Event().wait(pause)
    bench.leave("second")
    second = seen.result(DEADLINE)
    assert second.waited >= pause
    assert second.idle < second.waited


# --- several places ---


def several(bench: Bench, *slots: str) -> None:
    """Places that are taken unless they are named in what a job wants to pass by."""

    def choose(free: Sequence[str], passed_by: frozenset[str]) -> str | None:
        return next((slot for slot in free if slot not in passed_by), None)

    bench.dispatcher = Dispatcher(StoppableCondition(bench.stop), slots, choose)


def test_as_many_are_let_in_as_there_are_places_least_recently_used_first(bench: Bench) -> None:
    several(bench, "a", "b")
    with bench.dispatcher.lease(CancelToken()) as first:
        with bench.dispatcher.lease(CancelToken()) as second:
            third = bench.come("third")
            assert not bench.served
            assert bench.dispatcher.busy == [first.slot, second.slot] == ["a", "b"]
        eventually(lambda: bench.served == ["third"])
        assert bench.dispatcher.busy == ["a", "b"]
        bench.leave("third")
        third.result(DEADLINE)
    with bench.dispatcher.lease(CancelToken()) as next_one:
        assert next_one.slot == "b"


def test_the_first_keeps_his_place_in_the_line_when_no_place_is_right(bench: Bench) -> None:
    several(bench, "a", "b")
    with bench.dispatcher.lease(CancelToken()) as first:
        assert first.slot == "a"
        cancel = CancelToken()
        picky = bench.lanes.start(lambda: bench.dispatcher.lease(cancel, frozenset("b")).__enter__())
        eventually(lambda: len(bench.dispatcher._line) == 2)
        bench.come("easy")
        cancel.cancel(ErrorCode.DELIVERY_LOST)
        assert isinstance(picky.exception(DEADLINE), CancelledError)
        bench.leave("easy")


def test_never_two_at_once_and_none_forgotten(bench: Bench) -> None:
    """WorkerThreads come, go, fail and are cancelled all at once."""
    inside = threading.Lock()
    ends: list[str] = []

    def lane(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(50):
            cancel = CancelToken()
            canceller = threading.Timer(rng.random() / 500, cancel.cancel, [ErrorCode.DELIVERY_LOST])
            if rng.random() < 0.5:
                canceller.start()
            try:
                with bench.dispatcher.lease(cancel):
                    assert inside.acquire(blocking=False)
                    inside.release()
                    ends.append("served")
            except CancelledError:
                ends.append("cancelled")
            canceller.cancel()

    for end in [bench.lanes.start(lane, seed) for seed in range(8)]:
        end.result(DEADLINE)
    assert len(ends) == 400
    assert not bench.dispatcher._line
