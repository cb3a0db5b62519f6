"""The uploader in the consumer loop: from a result in the topic to its settled outcome, for all kinds of receivers."""

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
from tests.support.webhook_receiver import Exchange, WebhookReceiver, status
from tests.uploader.conftest import DEAD_LETTERS, RESULTS, RETRIES, TASKS, THREADS, Bench
from tests.uploader.outcomes import Song, check_same_outcome, failed_result, local_files

DELAY = 0.05


@contextmanager
def consuming(bench: Bench, max_attempts: int, max_crashes: int = 2) -> Iterator[Callable[[], None]]:
    """Run the consumer. Yields a function that stops it and waits until it has left the group."""
    stop = StopSignal(grace=20.0)
    consumer = Consumer(
        subscription=bench.transport.subscribe([RESULTS, RETRIES], "uploaders"),
        parse=lambda message: from_message(SeparationResult, message),
        handler=bench.uploader,
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
        concurrency=THREADS,
    )
    thread = threading.Thread(target=consumer.run, name="uploader-under-test")
    thread.start()

    def stop_and_join() -> None:
        stop.request("the test is over")
        thread.join(20.0)
        assert not thread.is_alive()

    try:
        yield stop_and_join
    finally:
        stop_and_join()


def test_webhook_is_retried_until_the_receiver_is_up(bench: Bench, song: Song) -> None:
    bench.receiver.answer(500, Exchange.reset, 503, 200)
    result = bench.hand_off(song)
    bench.transport.publish(to_message(RESULTS, result))
    with consuming(bench, max_attempts=10) as stop_and_join:
        requests = bench.receiver.wait_for(4)
        stop_and_join()
    check_same_outcome(bench, requests)
    assert bench.reported()[-1].status is TaskState.SUCCESS
    assert bench.messages(DEAD_LETTERS) == []
    assert [bench.handoff.stat(stem.key) for stem in result.stems] == [None, None]


def test_receiver_that_stays_down_leads_to_a_dead_letter(bench: Bench, song: Song) -> None:
    bench.receiver.answer(500)
    result = bench.hand_off(song)
    bench.transport.publish(to_message(RESULTS, result))
    with consuming(bench, max_attempts=3) as stop_and_join:
        bench.receiver.wait_for(3)
        stop_and_join()
    (letter,) = bench.messages(DEAD_LETTERS)
    assert from_message(SeparationResult, letter) == result
    assert len(bench.receiver.received) == 3
    assert bench.reported()[-1].status is TaskState.SUCCESS


@pytest.mark.parametrize("value", [b"{}", b"\xff not JSON"])
def test_invalid_message_becomes_a_dead_letter_and_blocks_no_other(bench: Bench, song: Song, value: bytes) -> None:
    result = bench.hand_off(song)
    good = to_message(RESULTS, result)
    bench.transport.publish(type(good)(RESULTS, "bad", value), good)
    with consuming(bench, max_attempts=3) as stop_and_join:
        bench.receiver.wait_for(1)
        stop_and_join()
    (letter,) = bench.messages(DEAD_LETTERS)
    assert letter.value == value


def test_duplicates_in_all_worker_threads_have_one_outcome(bench: Bench, song: Song) -> None:
    first = bench.hand_off(song)
    changed = {name: samples * 0.5 for name, samples in song.items()}
    second = bench.hand_off(changed, first.task)
    bench.receiver.answer(500, 200)
    bench.transport.publish(*(to_message(RESULTS, result) for result in (first, second, first, second)))
    with consuming(bench, max_attempts=5) as stop_and_join:
        requests = bench.receiver.wait_for(5)
        stop_and_join()
    check_same_outcome(bench, requests)
    outcomes = [event.status for event in bench.reported() if event.status in (TaskState.SUCCESS, TaskState.FAILED)]
    assert outcomes == [TaskState.SUCCESS] * 4
    assert local_files(bench.folder / "handoff") == set()


def test_silent_receiver_holds_half_of_the_threads_and_spends_no_attempts(bench: Bench) -> None:
    """Twelve webhooks to a receiver that does not answer, then one to another, then the first receiver answers."""
    wakes = threading.Event()

    def answer_late(exchange: Exchange) -> None:
        assert wakes.wait(20.0)
        status(200)(exchange)

    silent = [failed_result(bench.task()) for _ in range(12)]
    bench.receiver.answer(answer_late)
    bench.transport.publish(*(to_message(RESULTS, result) for result in silent))
    with WebhookReceiver() as other, consuming(bench, max_attempts=1) as stop_and_join:
        bench.receiver.wait_for(2)
        wait_for(lambda: [stored.message for stored in bench.transport.browse(RETRIES)])
        bench.transport.publish(to_message(RESULTS, failed_result(bench.task(hook_url=other.url))))
        other.wait_for(1)
        assert len(bench.receiver.received) == THREADS // 2
        wakes.set()
        told = bench.receiver.wait_for(12)
        stop_and_join()
    assert {webhook.json["task_uuid"] for webhook in told} == {str(result.task_uuid) for result in silent}
    assert len(bench.receiver.received) == 12
    assert bench.messages(DEAD_LETTERS) == []


def test_lost_stem_resubmits_the_task_and_settles_the_result(bench: Bench, song: Song) -> None:
    result = bench.hand_off(song)
    bench.handoff.delete(result.stems[0].key)
    bench.transport.publish(to_message(RESULTS, result))
    with consuming(bench, max_attempts=3) as stop_and_join:
        tasks = wait_for(lambda: bench.messages(TASKS))
        stop_and_join()
    assert [from_message(SeparationTask, task).separations for task in tasks] == [2]
    assert bench.receiver.received == []


def test_result_that_crashes_its_worker_is_reported_as_failed_and_cleaned_up(bench: Bench, song: Song) -> None:
    """The result was delivered before to a worker that crashed."""
    result = bench.hand_off(song)
    bench.transport.publish(to_message(RESULTS, result))
    crashed = bench.transport.subscribe([RESULTS], "uploaders")
    delivery = crashed.receive(20.0)
    assert delivery is not None
    crashed.release(delivery, count_attempt=True)
    crashed.close()
    with consuming(bench, max_attempts=3, max_crashes=1) as stop_and_join:
        (webhook,) = bench.receiver.wait_for(1)
        stop_and_join()
    assert (webhook.json["status"], webhook.json["error"]["code"]) == ("failed", "worker_died")
    assert local_files(bench.folder / "handoff") == set()
    assert len(bench.messages(DEAD_LETTERS)) == 1


def wait_for(poll: Callable[[], list[Message]]) -> list[Message]:
    """Call ``poll`` until it returns something, and return that."""
    deadline = time.monotonic() + 20.0
    while not (found := poll()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found
