"""The disk budget: waiting jobs keep to the limit, the head of the queue never waits, no job waits for ever."""

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
from tests.processor.worker_threads import DEADLINE, WorkerThreads, open_worker_threads

LIMIT = 100


class Bench:
    """A budget of 100 bytes and the jobs in its queue."""

    def __init__(self, threads: WorkerThreads, stack: ExitStack) -> None:
        self.threads = threads
        self._stack = stack
        self.stop = StopSignal(DEADLINE)
        self.budget = DiskBudget(LIMIT, self.stop)

    def job(self) -> DiskReservation:
        """Return the reservation of a new job at the end of the queue."""
        return self._stack.enter_context(self.budget.reserve())

    def request(self, job: DiskReservation, wanted: int, cancel: CancelToken | None = None) -> Future[None]:
        return self.threads.start(job.request, wanted, cancel or CancelToken())


@pytest.fixture
def bench() -> Iterator[Bench]:
    with open_worker_threads() as threads, ExitStack() as stack:
        bench = Bench(threads, stack)
        yield bench
        bench.stop.request("the test is over")


def is_waiting(request: Future[None]) -> bool:
    """Return whether the request is still pending after 0.05 s."""
    threading.Event().wait(0.05)
    return not request.done()


def test_head_of_the_queue_may_exceed_the_limit(bench: Bench) -> None:
    first = bench.job()
    bench.request(first, 10 * LIMIT).result(DEADLINE)
    assert bench.budget.held == 10 * LIMIT


def test_other_jobs_share_the_limit(bench: Bench) -> None:
    first, second, third = bench.job(), bench.job(), bench.job()
    bench.request(first, 40).result(DEADLINE)
    bench.request(second, 60).result(DEADLINE)
    request = bench.request(third, 1)
    assert is_waiting(request)
    second.keep(59)
    request.result(DEADLINE)
    assert bench.budget.held == LIMIT


def test_head_has_as_many_jobs_as_there_are_children(bench: Bench) -> None:
    """Each child may be waiting for a job."""
    bench.budget = DiskBudget(LIMIT, bench.stop, children=2)
    first, second, third = bench.job(), bench.job(), bench.job()
    for job in (first, second):
        bench.request(job, 10 * LIMIT).result(DEADLINE)
    request = bench.request(third, 1)
    assert is_waiting(request)
    with second.at_device():
        request.result(DEADLINE)


def test_held_bytes_count_once_in_a_larger_request(bench: Bench) -> None:
    first, second = bench.job(), bench.job()
    first.keep(40)
    bench.request(second, 50).result(DEADLINE)
    bench.request(second, 60).result(DEADLINE)
    assert is_waiting(bench.request(second, 61))


def test_job_at_the_device_frees_its_bytes_and_its_position(bench: Bench) -> None:
    first, second, third = bench.job(), bench.job(), bench.job()
    first.keep(90)
    request, too_much = bench.request(second, 2 * LIMIT), bench.request(third, LIMIT + 1)
    assert is_waiting(request)
    with first.at_device():
        request.result(DEADLINE)
    # The separated job now waits for its hand-off, outside the queue.
    assert bench.budget.held == 2 * LIMIT
    assert is_waiting(too_much)
    with second.at_device():
        too_much.result(DEADLINE)


def test_job_that_leaves_the_device_by_an_error_returns_to_its_position(bench: Bench) -> None:
    first, second = bench.job(), bench.job()
    first.keep(90)
    with pytest.raises(ZeroDivisionError), first.at_device():
        raise ZeroDivisionError
    assert bench.budget.held == 90
    assert is_waiting(bench.request(second, 20))
    bench.request(first, 5 * LIMIT).result(DEADLINE)


def test_closed_reservation_frees_its_bytes(bench: Bench) -> None:
    with bench.budget.reserve() as first:
        first.keep(90)
        second, third = bench.job(), bench.job()
        request = bench.request(third, 80)
        assert is_waiting(request)
    request.result(DEADLINE)
    assert is_waiting(bench.request(third, LIMIT + 1))
    bench.request(second, LIMIT + 1).result(DEADLINE)


def failure_code(request: Future[None]) -> ErrorCode:
    error = request.exception(DEADLINE)
    assert isinstance(error, CancelledError)
    return error.code


def test_cancelled_request_does_not_wait(bench: Bench) -> None:
    first, second, cancel = bench.job(), bench.job(), CancelToken()
    first.keep(90)
    request = bench.request(second, 20, cancel)
    cancel.cancel(ErrorCode.DELIVERY_LOST)
    assert failure_code(request) is ErrorCode.DELIVERY_LOST
    assert second.bytes == 0


def test_no_request_waits_during_a_shutdown(bench: Bench) -> None:
    first, second, third = bench.job(), bench.job(), bench.job()
    first.keep(90)
    request = bench.request(second, 20)
    bench.stop.request("test")
    assert failure_code(request) is ErrorCode.SHUTTING_DOWN
    assert failure_code(bench.request(third, 11)) is ErrorCode.SHUTTING_DOWN
    bench.request(third, 10).result(DEADLINE)


@pytest.mark.parametrize("limit", [1, 100, 1000])
def test_random_jobs_keep_to_the_limit_and_all_finish(limit: int) -> None:
    """Jobs of all sizes fetch, decode and use the only device, in random order."""
    budget, device = DiskBudget(limit, StopSignal(DEADLINE)), threading.Lock()
    held_behind_head: list[int] = []

    def record() -> None:
        with budget.condition:
            waiting = [job for job in budget._queue if job.waiting]
            held_behind_head.append(sum(job.bytes for job in waiting[1:]))

    def work(seed: int) -> int:
        rng = random.Random(seed)
        for _ in range(30):
            with budget.reserve() as job:
                for _stage in range(2):
                    job.request(rng.randrange(1, 60), CancelToken())
                    record()
                    job.keep(rng.randrange(job.bytes + 1))
                with device, job.at_device():
                    record()
        return 30

    with open_worker_threads() as threads:
        assert sum(future.result(DEADLINE) for future in [threads.start(work, seed) for seed in range(6)]) == 180
    assert max(held_behind_head) <= limit
    assert budget.held == 0
