"""Signals of `./start_local.sh`: the first one stops the services gracefully, a later one at once."""

from __future__ import annotations

import signal
import time
from types import FrameType

#: Signals that arrive so soon after the first one are the same wish, s: some programs send two.
SAME_WISH_SECONDS = 1.0


def handle_signals() -> None:
    """Raise KeyboardInterrupt on SIGINT, SIGTERM and SIGHUP, but not again within `SAME_WISH_SECONDS`.

    An ignored signal (nohup) stays ignored.
    """
    last = -SAME_WISH_SECONDS

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SAME_WISH_SECONDS:
            last = now
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, interrupt)
