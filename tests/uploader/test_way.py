"""The uploader behind the consumer loop: from a result in the topic to the settled end, whatever the receiver does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from pipeline.consumer import Consumer
from pipeline.lifecycle import StopSignal
from pipeline.messages import SeparationResult, TaskState, from_message, to_message
from pipeline.retry import Backoff, RetryPolicy
from tests.support.webhook_receiver import Exchange
from tests.uploader.conftest import DEAD_LETTERS, RESULTS, Bench

Song = dict[str, np.ndarray]
BRISK = Backoff(base=0.02, cap=0.1)


@contextmanager
def consuming(bench: Bench, max_attempts: int) -> Iterator[Callable[[], None]]:
    """Run the consumer; what it yields stops it and waits until it has left."""
    stop = StopSignal(grace=20.0)
    consumer = Consumer(
        subscription=bench.transport.subscribe([RESULTS], "uploaders"),
        parse=lambda message: from_message(SeparationResult, message),
        worker=bench.uploader,
        policy=RetryPolicy(max_attempts=max_attempts, transient=BRISK, infrastructure=BRISK),
        dead_letter_topic=DEAD_LETTERS,
        stop=stop,
    )
    thread = threading.Thread(target=consumer.run, name="uploader-under-test")
    thread.start()

    def finish() -> None:
        stop.request("the test is over")
        thread.join(20.0)
        assert not thread.is_alive()

    try:
        yield finish
    finally:
        finish()


def test_a_receiver_that_comes_up_late_is_told(bench: Bench, song: Song) -> None:
    bench.receiver.answer(500, Exchange.reset, 503, 200)
    result = bench.hand_off(song)
    bench.transport.publish(to_message(RESULTS, result))
    with consuming(bench, max_attempts=10) as finish:
        requests = bench.receiver.wait_for(4)
        finish()
    assert len({request.headers["webhook-id"] for request in requests}) == 1
    assert bench.reported()[-1].status is TaskState.SUCCESS
    assert bench.messages(DEAD_LETTERS) == []
    assert [bench.handoff.stat(stem.key) for stem in result.stems] == [None, None]


def test_a_receiver_that_stays_away_leaves_a_dead_letter(bench: Bench, song: Song) -> None:
    bench.receiver.answer(500)
    result = bench.hand_off(song)
    bench.transport.publish(to_message(RESULTS, result))
    with consuming(bench, max_attempts=3) as finish:
        bench.receiver.wait_for(3)
        finish()
    (letter,) = bench.messages(DEAD_LETTERS)
    assert from_message(SeparationResult, letter) == result
    assert len(bench.receiver.received) == 3
    assert bench.reported()[-1].status is TaskState.SUCCESS


@pytest.mark.parametrize("value", [b"{}", b"\xff not JSON"])
def test_a_message_that_is_no_result_does_not_stop_the_others(bench: Bench, song: Song, value: bytes) -> None:
    result = bench.hand_off(song)
    good = to_message(RESULTS, result)
    bench.transport.publish(type(good)(RESULTS, "bad", value), good)
    with consuming(bench, max_attempts=3) as finish:
        bench.receiver.wait_for(1)
        finish()
    (letter,) = bench.messages(DEAD_LETTERS)
    assert letter.value == value
