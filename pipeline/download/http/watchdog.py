"""Deadlines and cancellation that fire on a blocked socket.

A deadline that is checked between reads never fires on a server that drips: the read, the header parser or the wait
for the end of ``100 Continue`` answers goes on, and closing the response from another thread does not wake it. What
does is shutting the socket down. To the HTTP library that can look like a clean end, so the verdict is kept here and
must be asked for after every step.
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
    GIVEN_UP = auto()


class Watchdog:
    """Ends one exchange when it takes too long, stands still, or is cancelled. A context manager, used once.

    ``subject`` names the exchange in error messages. ``total``: s from entering to leaving the block. ``stall``: s of
    waiting for the other side, measured from ``expect`` to the next ``expect`` or ``rest``.

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
        """Set when the exchange is over, for waits that have no socket."""
        self._closed = False
        self._verdict: _Verdict | None = None
        self._sockets: list[socket.socket] = []
        self._calls: list[Future[Any]] = []
        self._total_at = math.inf
        self._stall_at = math.inf

    def __enter__(self) -> Self:
        self._total_at = time.monotonic() + self._total
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        self._cancel.on_cancel(_weakly(self._on_cancel))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._condition:
            self._let_go()
            self._condition.notify()

    @property
    def deadline(self) -> float:
        """When the total time is up, on the monotonic clock."""
        return self._total_at

    def branch(self, subject: str) -> Branch:
        """A watchdog for one of several exchanges, within the time and under the cancel token of this one."""
        return Branch(subject, self, stall=self._stall)

    def give_up_branches(self) -> None:
        """End all the exchanges that are running now: nobody wants them any more."""
        with self._condition:
            for branch in self._branches:
                branch._fire(_Verdict.GIVEN_UP)

    def guard_socket(self, connection: socket.socket) -> None:
        """Shut ``connection`` down when the time comes. Call right after connecting; the other side is expected."""
        with self._condition:
            # A handle of our own: TLS detaches the socket object that it wraps, and a descriptor that the HTTP
            # library has closed may already belong to somebody else.
            self._sockets.append(connection.dup())
            if self._verdict is not None:
                self._break()
        self.expect()

    def guard_call(self, outcome: Future[Any]) -> None:
        """Cancel ``outcome`` when the time comes."""
        with self._condition:
            self._calls.append(outcome)
            if self._verdict is not None:
                self._break()

    def expect(self) -> None:
        """From now on we wait for the other side."""
        self._stall_at = time.monotonic() + self._stall

    def rest(self) -> None:
        """From now on the other side waits for us."""
        self._stall_at = math.inf

    def raise_if_fired(self) -> None:
        """Raise TransientError (``source_timeout``) or CancelledError if the exchange was ended from here."""
        match self._verdict:
            case _Verdict.CANCELLED:
                self._cancel.raise_if_set()
            case _Verdict.TOO_LONG:
                raise self._timeout(f"did not finish within {self._total:g} s")
            case _Verdict.STALLED:
                raise self._timeout(f"sent nothing for {self._stall:g} s")
            case _Verdict.GIVEN_UP:
                raise TransientError(f"{self._subject} is not wanted any more", code=ErrorCode.SOURCE_INCOMPLETE)

    def _timeout(self, what: str) -> TransientError:
        return TransientError(f"{self._subject} {what}", code=ErrorCode.SOURCE_TIMEOUT)

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
                    # Never longer than ``stall``: ``expect`` is called for every read and wakes nobody.
                    self._condition.wait(min(self._total_at - now, self._next_stall() - now, self._stall))

    def _next_stall(self) -> float:
        running = (branch._stall_at for branch in self._branches if branch._verdict is None)
        return min((self._stall_at, *running))

    def _fire(self, verdict: _Verdict) -> None:
        if self._closed or self._verdict is not None:
            return
        self._verdict = verdict
        self._break()
        for branch in self._branches:
            branch._fire(verdict)

    def _let_go(self) -> None:
        self._closed = True
        self.ended.cancel(ErrorCode.SHUTTING_DOWN)
        for handle in self._sockets:
            handle.close()

    def _break(self) -> None:
        self.ended.cancel(ErrorCode.SHUTTING_DOWN)
        for handle in self._sockets:
            with suppress(OSError):  # the other side was faster
                handle.shutdown(socket.SHUT_RDWR)
        for outcome in self._calls:
            outcome.cancel()


class Branch(Watchdog):
    """The watchdog of one exchange out of several. The thread, the clock and the lock are those of the whole."""

    def __init__(self, subject: str, whole: Watchdog, *, stall: float) -> None:
        super().__init__(subject, total=whole._total, stall=stall, cancel=whole._cancel)
        self._whole = whole
        self._condition = whole._condition

    def __enter__(self) -> Self:
        with self._condition:
            self._total_at = self._whole._total_at
            self._whole._branches.add(self)
            if self._whole._verdict is not None:
                self._fire(self._whole._verdict)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._condition:
            self._whole._branches.discard(self)
            self._let_go()

    def give_up(self) -> None:
        """End this exchange alone, now: nobody wants it any more."""
        with self._condition:
            self._fire(_Verdict.GIVEN_UP)


class Cancellation:
    """Tells a thread of its own from outside to end the exchange it is at, or is about to begin."""

    def __init__(self, watch: Branch | None = None) -> None:
        self.given = False
        self._watch = watch

    def give(self) -> None:
        """The thread is dismissed."""
        self.given = True
        if self._watch is not None:
            self._watch.give_up()

    def watch(self, watch: Branch) -> None:
        """The thread begins an exchange, which ``watch`` can end."""
        self._watch = watch
        if self.given:  # meanwhile: of the two threads, the one that comes second sees what the first one did
            watch.give_up()


def _weakly(listener: Callable[[], None]) -> Callable[[], None]:
    """``listener`` without keeping its object alive: a token may live much longer than one exchange."""
    reference = weakref.WeakMethod(listener)

    def call() -> None:
        target = reference()
        if target is not None:
            target()

    return call
