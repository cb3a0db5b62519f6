"""Deadlines for calls that cannot be interrupted, such as the name resolution of the C library."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

T = TypeVar("T")


def call_bounded(
    work: Callable[[], T],
    *,
    timeout: float,
    on_start: Callable[[Future[Any]], None] = lambda _: None,
    discard: Callable[[T], None] = lambda _: None,
) -> T:
    """Return or raise the result of ``work``; raise TimeoutError after ``timeout`` s.

    ``work`` runs in a thread of its own, which goes on after the timeout. ``on_start`` receives the future before the
    wait: cancelling it ends the wait at once, with TimeoutError as well. A late result goes to ``discard``.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - the boundary between two threads: the caller raises it
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
            return
        if future.set_running_or_notify_cancel():
            future.set_result(result)
        else:
            discard(result)

    # A daemon thread: it may block in the C library for half a minute and must not delay the exit of the process.
    threading.Thread(target=run, name="bounded-call", daemon=True).start()
    on_start(future)
    try:
        return future.result(timeout)
    except (TimeoutError, CancelledError):
        if future.cancel():
            raise TimeoutError("timed out") from None
        # The result arrived between the end of the wait and the cancellation.
        return future.result()
