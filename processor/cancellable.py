"""Run uninterruptible work so that a cancelled job does not have to wait for it.

A store that stops responding can block an upload for minutes, and no client library aborts a request on demand. A job
that was released must not wait for that.
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
    """Run ``work`` in a thread and return its result or raise its error.

    Raises CancelledError as soon as ``cancel`` is set. ``work`` then goes on in its daemon thread; it must be harmless
    if it completes or fails later.
    """
    cancel.raise_if_set()
    result: Future[Result] = Future()
    wake = threading.Event()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:  # noqa: BLE001  ``result.result()`` raises it again
            result.set_exception(error)
        wake.set()

    threading.Thread(target=contextvars.copy_context().run, args=(run,), name="hand-off", daemon=True).start()
    cancel.on_cancel(wake.set)
    wake.wait()
    if not result.done():
        cancel.raise_if_set()
    return result.result()
