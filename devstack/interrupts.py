"""Signals of `./start_local.sh`: the first one stops the services gracefully, a later one at once."""

from __future__ import annotations

import signal
import time
from types import FrameType

from pipeline.service.shutdown import SAME_SIGNAL


def handle_signals() -> None:
    """Raise KeyboardInterrupt on SIGINT, SIGTERM and SIGHUP, but not again within `SAME_SIGNAL` s.

    An ignored signal (nohup) stays ignored.
    """
    last = -SAME_SIGNAL

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SAME_SIGNAL:
            last = now
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, interrupt)
