"""Calls that cannot be interrupted, such as the name resolution of the C library, with a deadline all the same."""

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
    """The result of ``work``, or TimeoutError after ``timeout`` s; what ``work`` raises comes through.

    ``work`` runs in a thread of its own, which is left behind when the time is up. ``on_start`` is given the outcome
    before the wait: cancelling it ends the wait at once, also with TimeoutError. A result that comes when nobody waits
    any more goes to ``discard``.
    """
    outcome: Future[T] = Future()
    # A daemon, because it may hang in the C library for half a minute and must not hold up the end of the process.
    threading.Thread(target=_settle, args=(work, outcome, discard), name="bounded-call", daemon=True).start()
    on_start(outcome)
    try:
        return outcome.result(timeout)
    except (TimeoutError, CancelledError):
        # Either nobody waits any more, or the result came at the last moment.
        if outcome.cancel():
            raise TimeoutError("timed out") from None
        return outcome.result()


def _settle(work: Callable[[], T], outcome: Future[T], discard: Callable[[T], None]) -> None:
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - the boundary between two threads: the caller gets it
        if outcome.set_running_or_notify_cancel():
            outcome.set_exception(error)
        return
    if outcome.set_running_or_notify_cancel():
        outcome.set_result(result)
    else:
        discard(result)
