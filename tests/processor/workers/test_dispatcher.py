"""The dispatcher: one job per slot, in order; cancelled jobs do not wait, nor any job while the service stops."""

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
    """A dispatcher, and worker threads that hold their slot until ``finish``."""

    def __init__(self, threads: WorkerThreads) -> None:
        self.threads = threads
        self.stop = StopSignal(DEADLINE)
        self.dispatcher = Dispatcher(StoppableCondition(self.stop), ["device"], lambda free, _: next(iter(free), None))
        self.served: list[str] = []
        self._finish: dict[str, threading.Event] = {}

    def arrive(self, name: str, cancel: CancelToken | None = None) -> Future[None]:
        """Start a worker thread; return once it is queued."""
        before = len(self.dispatcher._tickets)
        self._finish[name] = threading.Event()
        thread = self.threads.start(self._work, name, cancel or CancelToken())
        eventually(lambda: len(self.dispatcher._tickets) == before + 1 or thread.done())
        return thread

    def _work(self, name: str, cancel: CancelToken) -> None:
        with self.dispatcher.lease(cancel):
            self.served.append(name)
            assert self._finish[name].wait(DEADLINE)

    def finish(self, name: str) -> None:
        eventually(lambda: name in self.served)
        self._finish[name].set()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with open_worker_threads() as threads:
        yield Bench(threads)


def cancel_code(thread: Future[None]) -> ErrorCode:
    """Return the code of the thread's CancelledError."""
    error = thread.exception(DEADLINE)
    assert isinstance(error, CancelledError)
    return error.code


def test_waiting_jobs_are_served_in_order(bench: Bench) -> None:
    names = ["first", "second", "third", "fourth"]
    threads = [bench.arrive(name) for name in names]
    for number, name in enumerate(names, 1):
        eventually(lambda number=number: len(bench.served) == number)  # type: ignore[misc]
        assert bench.served == names[:number]
        bench.finish(name)
    for thread in threads:
        thread.result(DEADLINE)


def test_cancelled_job_leaves_the_queue(bench: Bench) -> None:
    cancel = CancelToken()
    bench.arrive("first")
    second = bench.arrive("second", cancel)
    bench.arrive("third")
    cancel.cancel(ErrorCode.DELIVERY_LOST)
    assert cancel_code(second) is ErrorCode.DELIVERY_LOST
    bench.finish("first")
    bench.finish("third")
    assert bench.served == ["first", "third"]


def test_cancelled_job_is_rejected_before_queueing(bench: Bench) -> None:
    cancel = CancelToken()
    cancel.cancel(ErrorCode.DELIVERY_LOST)
    assert cancel_code(bench.arrive("late", cancel)) is ErrorCode.DELIVERY_LOST
    assert bench.served == []


def test_stop_rejects_waiting_jobs(bench: Bench) -> None:
    first = bench.arrive("first")
    waiting = [bench.arrive("second"), bench.arrive("third")]
    bench.stop.request("test")
    assert [cancel_code(thread) for thread in waiting] == [ErrorCode.SHUTTING_DOWN] * 2
    assert cancel_code(bench.arrive("late")) is ErrorCode.SHUTTING_DOWN
    bench.finish("first")
    first.result(DEADLINE)
    assert bench.served == ["first"]


def test_stopping_service_still_leases_a_free_slot(bench: Bench) -> None:
    """A job that is already fetched may finish within the grace period."""
    bench.stop.request("test")
    thread = bench.arrive("prepared")
    bench.finish("prepared")
    thread.result(DEADLINE)


def test_failed_job_releases_its_slot(bench: Bench) -> None:
    with pytest.raises(ZeroDivisionError), bench.dispatcher.lease(CancelToken()):
        raise ZeroDivisionError
    second = bench.arrive("second")
    bench.finish("second")
    second.result(DEADLINE)


def test_lease_has_both_waiting_times(bench: Bench) -> None:
    with bench.dispatcher.lease(CancelToken()) as lease:
        assert 0 <= lease.waited < DEADLINE
        bench.arrive("second")
        seen = bench.threads.start(lambda: bench.dispatcher.lease(CancelToken()).__enter__())
        eventually(lambda: len(bench.dispatcher._tickets) == 3)
        pause = 0.05
        threading.Event().wait(pause)
    bench.finish("second")
    second = seen.result(DEADLINE)
    assert second.waited >= pause
    assert second.idle < second.waited


# --- several slots ---


def use_slots(bench: Bench, *slots: str) -> None:
    """Use ``slots``; a job does not accept the slots that its ``models`` name."""

    def choose(free: Sequence[str], models: frozenset[str]) -> str | None:
        return next((slot for slot in free if slot not in models), None)

    bench.dispatcher = Dispatcher(StoppableCondition(bench.stop), slots, choose)


def test_slots_are_leased_least_recently_used_first(bench: Bench) -> None:
    use_slots(bench, "a", "b")
    with bench.dispatcher.lease(CancelToken()) as first:
        with bench.dispatcher.lease(CancelToken()) as second:
            third = bench.arrive("third")
            assert not bench.served
            assert bench.dispatcher.busy == [first.slot, second.slot] == ["a", "b"]
        eventually(lambda: bench.served == ["third"])
        assert bench.dispatcher.busy == ["a", "b"]
        bench.finish("third")
        third.result(DEADLINE)
    with bench.dispatcher.lease(CancelToken()) as next_one:
        assert next_one.slot == "b"


def test_first_job_is_not_overtaken_while_no_slot_suits_it(bench: Bench) -> None:
    use_slots(bench, "a", "b")
    with bench.dispatcher.lease(CancelToken()) as first:
        assert first.slot == "a"
        cancel = CancelToken()
        selective = bench.threads.start(lambda: bench.dispatcher.lease(cancel, frozenset("b")).__enter__())
        eventually(lambda: len(bench.dispatcher._tickets) == 2)
        bench.arrive("undemanding")
        cancel.cancel(ErrorCode.DELIVERY_LOST)
        assert isinstance(selective.exception(DEADLINE), CancelledError)
        bench.finish("undemanding")


def test_second_job_is_woken_by_the_first_that_gets_a_slot(bench: Bench) -> None:
    """Both slots become usable at once. The second job may look first, and must then look again."""
    for _ in range(100):
        usable: list[str] = []

        def choose(free: Sequence[str], _: frozenset[str], usable: list[str] = usable) -> str | None:
            return next((slot for slot in free if slot in usable), None)

        condition = StoppableCondition(bench.stop)
        dispatcher = Dispatcher(condition, ["a", "b"], choose)
        both = threading.Barrier(2)

        def work(dispatcher: Dispatcher[str] = dispatcher, both: threading.Barrier = both) -> None:
            with dispatcher.lease(CancelToken()):
                both.wait(DEADLINE)

        threads = []
        for count in (1, 2):
            threads.append(bench.threads.start(work))
            eventually(lambda count=count, dispatcher=dispatcher: len(dispatcher._tickets) == count)  # type: ignore[misc]
        with condition:
            usable += ["a", "b"]
            condition.notify()
        for thread in threads:
            thread.result(DEADLINE)


def test_slot_has_one_job_at_a_time_and_no_job_is_lost(bench: Bench) -> None:
    """Many threads wait, finish and are cancelled concurrently."""
    inside = threading.Lock()
    ends: list[str] = []

    def thread(seed: int) -> None:
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

    for end in [bench.threads.start(thread, seed) for seed in range(8)]:
        end.result(DEADLINE)
    assert len(ends) == 400
    assert not bench.dispatcher._tickets
