"""The watchdog ends what it guards, once, and leaves everything else alone."""

from __future__ import annotations

import gc
import socket
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from pipeline.cancellation import CancelToken
from pipeline.download.http.watchdog import Watchdog
from pipeline.download.timeout import call_bounded
from pipeline.errors import CancelledError, ErrorCode, TransientError


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for end in (ours, theirs):
            end.settimeout(20)
        yield ours, theirs


def watchdog(*, total: float = 60, stall: float = 60, cancel: CancelToken | None = None) -> Watchdog:
    return Watchdog("the source", total=total, stall=stall, cancel=cancel or CancelToken())


@pytest.mark.parametrize(("total", "stall", "message"), [(0.1, 60, r"within 0\.1 s"), (60, 0.1, r"nothing for 0\.1 s")])
def test_a_blocked_read_ends(
    total: float, stall: float, message: str, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    with watchdog(total=total, stall=stall) as subject:
        subject.guard_socket(ours)
        assert ours.recv(1) == b""
        with pytest.raises(TransientError, match=message) as caught:
            subject.raise_if_fired()
        assert caught.value.code is ErrorCode.SOURCE_TIMEOUT
    assert theirs.recv(1) == b""


def test_a_cancel_ends_a_blocked_read(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    token = CancelToken()
    with watchdog(cancel=token) as subject:
        subject.guard_socket(ours)
        threading.Timer(0.05, token.cancel, (ErrorCode.SHUTTING_DOWN,)).start()
        assert ours.recv(1) == b""
        with pytest.raises(CancelledError):
            subject.raise_if_fired()


def test_the_first_verdict_stays(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    token = CancelToken()
    with watchdog(total=0.1, cancel=token) as subject:
        subject.guard_socket(ours)
        assert ours.recv(1) == b""
        token.cancel(ErrorCode.SHUTTING_DOWN)
        with pytest.raises(TransientError):
            subject.raise_if_fired()


def test_a_connection_that_is_made_too_late_is_shut_down_at_once(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    token = CancelToken()
    token.cancel(ErrorCode.SHUTTING_DOWN)
    with watchdog(cancel=token) as subject:
        subject.guard_socket(ours)
        assert ours.recv(1) == b""


def test_a_call_that_is_made_too_late_is_broken_off_at_once() -> None:
    token = CancelToken()
    token.cancel(ErrorCode.SHUTTING_DOWN)
    outcome = Future[int]()
    with watchdog(cancel=token) as subject:
        subject.guard_call(outcome)
    assert outcome.cancelled()


def test_nothing_happens_while_the_other_side_waits_for_us(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    with watchdog(stall=0.1) as subject:
        subject.guard_socket(ours)
        subject.rest()
        assert not threading.Event().wait(0.3)
        subject.raise_if_fired()
        theirs.send(b"x")
        assert ours.recv(1) == b"x"
        subject.expect()
        assert ours.recv(1) == b""


def test_nothing_happens_after_the_end(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    token = CancelToken()
    with watchdog(cancel=token) as subject:
        subject.guard_socket(ours)
    token.cancel(ErrorCode.SHUTTING_DOWN)
    subject.raise_if_fired()
    theirs.send(b"x")
    assert ours.recv(1) == b"x"


def test_a_token_that_lives_on_does_not_keep_watchdogs_alive() -> None:
    token = CancelToken()
    with watchdog(cancel=token) as subject:
        gone = weakref.ref(subject)
    thread = next((t for t in threading.enumerate() if t.name == "watchdog"), None)
    if thread is not None:
        thread.join(20)
    del subject
    gc.collect()
    assert gone() is None


def test_a_bounded_call_returns_or_raises_as_the_work_does() -> None:
    assert call_bounded(lambda: 7, timeout=20) == 7
    with pytest.raises(ZeroDivisionError):
        call_bounded(lambda: 1 // 0, timeout=20)
    with pytest.raises(TimeoutError, match="of the work"):
        call_bounded(lambda: _raise(TimeoutError("of the work")), timeout=20)


def _raise(error: Exception) -> None:
    raise error


def test_late_result_is_discarded() -> None:
    release, discarded = threading.Event(), Future[int]()

    def work() -> int:
        release.wait(20)
        return 7

    with pytest.raises(TimeoutError):
        call_bounded(work, timeout=0.05, discard=discarded.set_result)
    release.set()
    assert discarded.result(20) == 7


def test_a_bounded_call_can_be_broken_off() -> None:
    release = threading.Event()
    with pytest.raises(TimeoutError):
        call_bounded(lambda: release.wait(20), timeout=600, on_start=_cancel)
    release.set()


def _cancel(outcome: Future[Any]) -> None:
    outcome.cancel()
