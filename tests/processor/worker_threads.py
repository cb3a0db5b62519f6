"""Lanes of a consumer as the tests need them: threads whose end is asked for, and that may not hang."""

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
    """Wait until ``condition()``. Raises AssertionError if it does not come true."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.01)


class Lanes:
    """Runs each piece of work in a thread of its own."""

    def __init__(self) -> None:
        self._begun: list[Future[object]] = []

    def start(self, work: Callable[..., Result], *arguments: object) -> Future[Result]:
        """Begin; the future's ``result(DEADLINE)`` is the end."""
        end: Future[Result] = Future()

        def run() -> None:
            try:
                end.set_result(work(*arguments))
            except BaseException as error:  # noqa: BLE001 - shown by whoever asks for the end
                end.set_exception(error)

        # A lane that hangs must fail its test, not keep the suite from ending.
        threading.Thread(target=run, name="lane", daemon=True).start()
        self._begun.append(end)  # type: ignore[arg-type]
        return end

    def all_over(self) -> bool:
        """Whether all that was begun has come to its end."""
        return all(end.done() for end in self._begun)


@contextmanager
def open_lanes() -> Iterator[Lanes]:
    """At the end all that was begun must have come to its end."""
    lanes = Lanes()
    yield lanes
    eventually(lanes.all_over)
