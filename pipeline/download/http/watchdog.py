"""Deadlines and cancellation that interrupt a blocked socket.

A deadline checked between reads never fires on a server that sends one byte at a time: the read, the header parser or
the loop over ``100 Continue`` responses goes on, and closing the response from another thread does not wake it.
Shutting the socket down does. To the HTTP library that can look like a regular end of the body, so the verdict is kept
here and has to be checked after every step.
"""

from __future__ import annotations

import math
import socket
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from enum import Enum, auto
from types import TracebackType
from typing import Any, Self

from pipeline.cancellation import CancelToken
from pipeline.errors import ErrorCode, TransientError


class _Verdict(Enum):
    TOO_LONG = auto()
    STALLED = auto()
    CANCELLED = auto()
    BRANCH_CANCELLED = auto()


class Watchdog:
    """Ends one exchange when it takes too long, stalls, or is cancelled. A context manager for one use.

    ``subject`` names the exchange in error messages. ``total``: maximum time in the block, s. ``stall``: maximum wait
    for the other side, s, from ``expect`` to the next ``expect`` or ``rest``.

    A download with several exchanges has one watchdog with a ``branch`` for each of them.
    """

    def __init__(self, subject: str, *, total: float, stall: float, cancel: CancelToken) -> None:
        self._subject = subject
        self._total = total
        self._stall = stall
        self._cancel = cancel
        self._condition = threading.Condition()
        self._branches: set[Branch] = set()
        self.ended = CancelToken()
        """Set when the exchange ends, for waits that involve no socket."""
        self._closed = False
        self._verdict: _Verdict | None = None
        self._sockets: list[socket.socket] = []
        self._calls: list[Future[Any]] = []
        self._total_at = math.inf
        self._stall_at = math.inf

    def __enter__(self) -> Self:
        self._total_at = time.monotonic() + self._total
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        # A weak reference: the token may live much longer than this exchange.
        reference = weakref.WeakMethod(self._on_cancel)
        self._cancel.on_cancel(lambda: _call_if_alive(reference))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._condition:
            self._release()
            self._condition.notify()

    @property
    def deadline(self) -> float:
        """End of the total time, on the monotonic clock."""
        return self._total_at

    def branch(self, subject: str) -> Branch:
        """Return a watchdog for one of several exchanges, with the deadline and the cancel token of this one."""
        return Branch(subject, self, stall=self._stall)

    def guard_socket(self, connection: socket.socket) -> None:
        """Shut ``connection`` down when the exchange ends. Starts the stall timer: call it right after connecting."""
        with self._condition:
            # A duplicate: TLS detaches the socket object that it wraps, and a descriptor that the HTTP library has
            # closed may already be in use for something else.
            self._sockets.append(connection.dup())
            if self._verdict is not None:
                self._interrupt()
        self.expect()

    def guard_call(self, outcome: Future[Any]) -> None:
        """Cancel ``outcome`` when the exchange ends."""
        with self._condition:
            self._calls.append(outcome)
            if self._verdict is not None:
                self._interrupt()

    def expect(self) -> None:
        """Start the stall timer: the other side has to act next."""
        self._stall_at = time.monotonic() + self._stall

    def rest(self) -> None:
        """Stop the stall timer: this side has to act next."""
        self._stall_at = math.inf

    def raise_if_fired(self) -> None:
        """Raise TransientError (``source_timeout``) or CancelledError if the watchdog has ended the exchange."""
        subject, timeout = self._subject, ErrorCode.SOURCE_TIMEOUT
        match self._verdict:
            case _Verdict.CANCELLED:
                self._cancel.raise_if_set()
            case _Verdict.TOO_LONG:
                raise TransientError(f"{subject} did not finish within {self._total:g} s", code=timeout)
            case _Verdict.STALLED:
                raise TransientError(f"{subject} sent nothing for {self._stall:g} s", code=timeout)
            case _Verdict.BRANCH_CANCELLED:
                raise TransientError(f"{subject} is no longer needed", code=ErrorCode.SOURCE_INCOMPLETE)

    def _on_cancel(self) -> None:
        with self._condition:
            self._fire(_Verdict.CANCELLED)

    def _watch(self) -> None:
        with self._condition:
            while not self._closed and self._verdict is None:
                now = time.monotonic()
                if now >= self._total_at:
                    self._fire(_Verdict.TOO_LONG)
                for exchange in (self, *self._branches):
                    if now >= exchange._stall_at:
                        exchange._fire(_Verdict.STALLED)
                if self._verdict is None:
                    running = (branch._stall_at for branch in self._branches if branch._verdict is None)
                    next_stall = min((self._stall_at, *running))
                    # At most ``stall``: ``expect`` runs before every read and does not wake this thread.
                    self._condition.wait(min(self._total_at - now, next_stall - now, self._stall))

    def _fire(self, verdict: _Verdict) -> None:
        if self._closed or self._verdict is not None:
            return
        self._verdict = verdict
        self._interrupt()
        for branch in self._branches:
            branch._fire(verdict)

    def _interrupt(self) -> None:
        self.ended.cancel(ErrorCode.SHUTTING_DOWN)
        for handle in self._sockets:
            with suppress(OSError):  # the other side has closed it already
                handle.shutdown(socket.SHUT_RDWR)
        for outcome in self._calls:
            outcome.cancel()

    def _release(self) -> None:
        self._closed = True
        self.ended.cancel(ErrorCode.SHUTTING_DOWN)
        for handle in self._sockets:
            handle.close()


class Branch(Watchdog):
    """The watchdog of one exchange out of several. Thread, deadline and lock are those of the parent."""

    def __init__(self, subject: str, parent: Watchdog, *, stall: float) -> None:
        super().__init__(subject, total=parent._total, stall=stall, cancel=parent._cancel)
        self._parent = parent
        self._condition = parent._condition

    def __enter__(self) -> Self:
        with self._condition:
            self._total_at = self._parent._total_at
            self._parent._branches.add(self)
            if self._parent._verdict is not None:
                self._fire(self._parent._verdict)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._condition:
            self._parent._branches.discard(self)
            self._release()

    def cancel(self) -> None:
        """End this exchange alone, now."""
        with self._condition:
            self._fire(_Verdict.BRANCH_CANCELLED)


def _call_if_alive(reference: weakref.WeakMethod[Callable[[], None]]) -> None:
    method = reference()
    if method is not None:
        method()
