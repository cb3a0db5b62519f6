"""Work that cannot be interrupted, left to itself where nobody wants its end any more.

A store that has gone silent keeps an upload waiting for minutes, and no client library lets go of it when it is told
to. A job that was given back must not wait for that.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from pipeline.cancellation import CancelToken

Result = TypeVar("Result")


def run_cancellable(work: Callable[[], Result], cancel: CancelToken) -> Result:
    """What ``work`` returns or raises. It must be harmless if it goes on, and ends or fails, after this has returned.

    Raises CancelledError as soon as ``cancel`` is set.
    """
    cancel.raise_if_set()
    end: Future[Result] = Future()
    over = threading.Event()

    def run() -> None:
        try:
            end.set_result(work())
        except BaseException as error:  # noqa: BLE001  raised again by whoever waits
            end.set_exception(error)
        over.set()

    threading.Thread(target=contextvars.copy_context().run, args=(run,), name="hand-off", daemon=True).start()
    cancel.on_cancel(over.set)
    over.wait()
    if not end.done():
        cancel.raise_if_set()
    return end.result()
