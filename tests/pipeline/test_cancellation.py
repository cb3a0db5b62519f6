"""The cancellation token."""

from __future__ import annotations

import threading

import pytest

from pipeline.cancellation import CancelToken
from pipeline.errors import CancelledError, ErrorCode

DEADLINE = 10.0


@pytest.fixture
def token() -> CancelToken:
    return CancelToken()


def test_new_token_is_not_set(token: CancelToken) -> None:
    token.raise_if_set()
    assert not token.is_set()
    assert token.reason is None
    assert not token.wait(0.0)


@pytest.mark.parametrize("reason", [ErrorCode.DELIVERY_LOST, ErrorCode.SHUTTING_DOWN])
def test_cancelled_work_receives_the_reason(token: CancelToken, reason: ErrorCode) -> None:
    token.cancel(reason)
    with pytest.raises(CancelledError) as caught:
        token.raise_if_set()
    assert caught.value.code is reason
    assert token.is_set()


def test_first_reason_stays(token: CancelToken) -> None:
    token.cancel(ErrorCode.SHUTTING_DOWN)
    token.cancel(ErrorCode.DELIVERY_LOST)
    assert token.reason is ErrorCode.SHUTTING_DOWN


def test_cancellation_wakes_waiting_threads(token: CancelToken) -> None:
    woken: list[bool] = []
    waiting = threading.Thread(target=lambda: woken.append(token.wait(DEADLINE * 10)))
    waiting.start()
    token.cancel(ErrorCode.SHUTTING_DOWN)
    waiting.join(DEADLINE)
    assert woken == [True]


class TestListeners:
    def test_each_listener_is_called_once(self, token: CancelToken) -> None:
        called: list[str] = []
        token.on_cancel(lambda: called.append("first"))
        token.on_cancel(lambda: called.append("second"))
        token.cancel(ErrorCode.SHUTTING_DOWN)
        token.cancel(ErrorCode.SHUTTING_DOWN)
        assert called == ["first", "second"]

    def test_late_listener_is_called_at_once(self, token: CancelToken) -> None:
        called: list[str] = []
        token.cancel(ErrorCode.SHUTTING_DOWN)
        token.on_cancel(lambda: called.append("late"))
        assert called == ["late"]

    def test_listener_sees_the_token_set(self, token: CancelToken) -> None:
        seen: list[bool] = []
        token.on_cancel(lambda: seen.append(token.is_set()))
        token.cancel(ErrorCode.SHUTTING_DOWN)
        assert seen == [True]

    def test_listener_may_use_the_token(self, token: CancelToken) -> None:
        called: list[str] = []
        token.on_cancel(lambda: token.on_cancel(lambda: called.append("inner")))
        token.cancel(ErrorCode.SHUTTING_DOWN)
        assert called == ["inner"]

    def test_failing_listener_does_not_block_the_others(self, token: CancelToken) -> None:
        called: list[str] = []

        def fail() -> None:
            raise OSError("the child has ended already")

        token.on_cancel(fail)
        token.on_cancel(lambda: called.append("second"))
        token.cancel(ErrorCode.DELIVERY_LOST)
        assert called == ["second"]

    def test_concurrent_listeners_are_each_called_once(self) -> None:
        for _ in range(200):
            token = CancelToken()
            called: list[int] = []
            start = threading.Barrier(3)

            def listen(number: int, token: CancelToken = token, start: threading.Barrier = start) -> None:
                start.wait(DEADLINE)
                token.on_cancel(lambda: called.append(number))  # noqa: B023  joined before the next round

            def cancel(token: CancelToken = token, start: threading.Barrier = start) -> None:
                start.wait(DEADLINE)
                token.cancel(ErrorCode.SHUTTING_DOWN)

            threads = [threading.Thread(target=listen, args=(number,)) for number in (1, 2)]
            threads.append(threading.Thread(target=cancel))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(DEADLINE)
            assert sorted(called) == [1, 2]
