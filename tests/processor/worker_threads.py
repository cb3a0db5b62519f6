"""Worker threads for tests: each has a future, and all of them must end within a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

DEADLINE = 20.0

Result = TypeVar("Result")


def eventually(condition: Callable[[], bool], deadline: float = DEADLINE) -> None:
    """Wait until ``condition()`` is true. Raises AssertionError after ``deadline`` s."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.01)


class WorkerThreads:
    """Runs each call in a new thread."""

    def __init__(self) -> None:
        self._futures: list[Future[object]] = []

    def start(self, work: Callable[..., Result], *arguments: object) -> Future[Result]:
        """Start ``work(*arguments)``; await it with ``result(DEADLINE)`` of the returned future."""
        future: Future[Result] = Future()

        def run() -> None:
            try:
                future.set_result(work(*arguments))
            except BaseException as error:  # noqa: BLE001  ``result`` raises it
                future.set_exception(error)

        # A thread that hangs must fail its test, and must not keep the suite from ending.
        threading.Thread(target=run, name="worker", daemon=True).start()
        self._futures.append(future)  # type: ignore[arg-type]
        return future

    def all_done(self) -> bool:
        """Return whether all calls have ended."""
        return all(future.done() for future in self._futures)


@contextmanager
def open_worker_threads() -> Iterator[WorkerThreads]:
    """Yield worker threads; all of them must have ended soon after the block."""
    threads = WorkerThreads()
    yield threads
    eventually(threads.all_done)
