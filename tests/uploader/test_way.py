"""The uploader behind the consumer loop: from a result in the topic to the settled end, whatever the receiver does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pipeline.backoff import Backoff
from pipeline.consuming.consumer import Consumer
from pipeline.consuming.retry import RetryPolicy
from pipeline.messages import SeparationResult, SeparationTask, TaskState, from_message, to_message
from pipeline.service.shutdown import StopSignal
from pipeline.transport.protocol import Message
from tests.support.webhook_receiver import Exchange
from tests.uploader.conftest import DEAD_LETTERS, RESULTS, RETRIES, TASKS, Bench
from tests.uploader.outcomes import Song, check_told_alike, local_files

DELAY = 0.05
LANES = 3


@contextmanager
def consuming(bench: Bench, max_attempts: int, max_crashes: int = 2) -> Iterator[Callable[[], None]]:
    """Run the consumer; what it yields stops it and waits until it has left."""
    stop = StopSignal(grace=20.0)
    consumer = Consumer(
        subscription=bench.transport.subscribe([RESULTS, RETRIES], "uploaders"),
        parse=lambda message: from_message(SeparationResult, message),
        worker=bench.uploader,
        policy=RetryPolicy(
            max_attempts=max_attempts,
            max_crashes=max_crashes,
            delays=(DELAY,),
            infrastructure=Backoff(base=0.02, cap=0.1),
        ),
        sources=frozenset([RESULTS]),
        retry_topics={DELAY: RETRIES},
        dead_letter_topic=DEAD_LETTERS,
        stop=stop,
        lanes=LANES,
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
    check_told_alike(bench, requests)
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


def test_duplicates_in_all_lanes_have_one_outcome(bench: Bench, song: Song) -> None:
    first = bench.hand_off(song)
    changed = {name: samples * 0.5 for name, samples in song.items()}
    second = bench.hand_off(changed, first.task)
    bench.receiver.answer(500, 200)
    bench.transport.publish(*(to_message(RESULTS, result) for result in (first, second, first, second)))
    with consuming(bench, max_attempts=5) as finish:
        requests = bench.receiver.wait_for(5)
        finish()
    check_told_alike(bench, requests)
    outcomes = [event.status for event in bench.reported() if event.status in (TaskState.SUCCESS, TaskState.FAILED)]
    assert outcomes == [TaskState.SUCCESS] * 4
    assert local_files(bench.folder / "handoff") == set()


def test_a_lost_stem_sends_the_task_back_and_settles_the_result(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    bench.handoff.delete(result.stems[0].key)
    bench.transport.publish(to_message(RESULTS, result))
    with consuming(bench, max_attempts=3) as finish:
        tasks = wait_for(lambda: bench.messages(TASKS))
        finish()
    assert [from_message(SeparationTask, task).separations for task in tasks] == [2]
    assert bench.receiver.received == []


def test_a_result_that_ends_its_worker_is_told_as_failed_and_leaves_nothing(bench: Bench, song: Song) -> None:
    """It was delivered to a worker before, which has not been seen since."""
    result = bench.hand_off(song)
    bench.transport.publish(to_message(RESULTS, result))
    victim = bench.transport.subscribe([RESULTS], "uploaders")
    delivery = victim.receive(20.0)
    assert delivery is not None
    victim.release(delivery, count_attempt=True)
    victim.close()
    with consuming(bench, max_attempts=3, max_crashes=1) as finish:
        (webhook,) = bench.receiver.wait_for(1)
        finish()
    assert (webhook.json["status"], webhook.json["error"]["code"]) == ("failed", "worker_died")
    assert local_files(bench.folder / "handoff") == set()
    assert len(bench.messages(DEAD_LETTERS)) == 1


def wait_for(look: Callable[[], list[Message]]) -> list[Message]:
    """What ``look`` finds, as soon as it finds something."""
    deadline = time.monotonic() + 20.0
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found
