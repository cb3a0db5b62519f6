"""The consumer loop beside newer members, after crashes and refusals, and while its circuit stays open.

The subjects do not depend on the engine, so the tests use the embedded one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
import structlog

from pipeline.consuming.circuit_breaker import CircuitBreaker
from pipeline.consuming.retry_headers import ATTEMPTS, ORIGINAL_TOPIC, UNREAD_SINCE
from pipeline.errors import DeferredError, ErrorCode, RefusedError
from pipeline.messages import SeparationResult, from_message, unread_failure
from pipeline.transport.protocol import Delivery, Message, Subscription
from tests.conformance.transport.consumer_stage import (
    DEADLINE,
    DELAYS,
    POLICY,
    STORAGE_DOWN,
    UNAVAILABLE,
    ScriptedRun,
    Stage,
    parse,
)

pytestmark = pytest.mark.parametrize("backend", ["embedded"], indirect=True)

NEWER = DeferredError("the job needs a newer version of this service", code=ErrorCode.MESSAGE_NEWER)


def parse_as_older(message: Message) -> str:
    """Decode a job as a version that knows no job in capital letters."""
    job = parse(message)
    if job.isupper():
        raise NEWER
    return job


class TestNewerMessages:
    def test_newer_member_does_what_the_older_one_defers(self, stage: Stage) -> None:
        stage.publish(b"NEW")
        older, newer = stage.handler(), stage.handler()
        loop = stage.run(older, parse=parse_as_older)
        stage.wait_for_retry(b"NEW")
        loop.stop_and_join()
        stage.run(newer)

        assert stage.outputs(1) == ([b"done"], [])
        assert (older.tries, newer.tries) == ([], [("NEW", 1)])
        deferred = stage.backend.open().browse(stage.topics.retries[DELAYS[0]])
        assert {stored.message.headers[ATTEMPTS] for stored in deferred} == {b"0"}

    def test_older_member_goes_on_with_other_jobs(self, stage: Stage) -> None:
        stage.publish(b"NEW", b"old")
        handler = stage.handler()
        loop = stage.run(handler, parse=parse_as_older)
        assert handler.done.wait(DEADLINE)
        loop.stop_and_join()
        assert handler.tries == [("old", 1)]

    def test_client_receives_a_failure_when_no_newer_member_comes(self, stage: Stage) -> None:
        task = str(uuid4())
        body = {"task_uuid": task, "audio": {"left": "http://a"}, "hook_url": "http://hook", "version": 2}
        stage.backend.open().publish(Message(stage.topics.jobs, task, json.dumps(body).encode()))

        def refuse(_: Message) -> str:
            raise NEWER

        policy = replace(POLICY, newer_patience=0.1)
        stage.run(
            stage.handler(),
            parse=refuse,
            policy=policy,
            unread_failure=lambda message, error: unread_failure(stage.topics.results, message, error),
        )

        (failed,), (letter,) = stage.outputs(1, dead_letters=1)

        result = from_message(SeparationResult, Message("", task, failed))
        assert (result.task_uuid, result.status, result.task.hook_url) == (UUID(task), "failed", "http://hook")
        assert result.error is not None
        assert result.error.code is ErrorCode.MESSAGE_NEWER
        assert (json.loads(letter.value), letter.headers["error-code"]) == (body, b"message_newer")

    def test_time_begins_anew_once_the_message_was_read(self, stage: Stage) -> None:
        headers = {UNREAD_SINCE: b"1.0", ORIGINAL_TOPIC: stage.topics.jobs.encode()}
        stage.backend.open().publish(Message(stage.topics.jobs, "k", b"NEW", headers))
        stage.run(stage.handler(UNAVAILABLE))
        stage.outputs(1)
        (retried,) = stage.backend.open().browse(stage.topics.retries[DELAYS[0]])
        assert UNREAD_SINCE not in retried.message.headers


class TestDeferredJobs:
    def test_deferred_job_spends_nothing_and_holds_no_thread(self, stage: Stage) -> None:
        stage.publish(b"one", b"two", keys="ab")
        busy = DeferredError("busy", code=ErrorCode.RECEIVER_BUSY)
        handler = stage.handler(*[busy] * POLICY.max_attempts * 2, UNAVAILABLE, UNAVAILABLE)
        stage.run(handler)
        assert stage.outputs(2) == ([b"done"] * 2, [])
        assert handler.tries[:2] == [("one", 1), ("two", 1)]


class TestCrashes:
    def test_crashes_are_counted_across_a_retry_topic(self, stage: Stage) -> None:
        stage.publish(b"one")
        handler = stage.handler(ZeroDivisionError("a defect"), UNAVAILABLE, ZeroDivisionError("a defect"))
        stage.run(handler)

        results, (letter,) = stage.outputs(1, dead_letters=1)

        assert results == [b"failed: one: internal"]
        assert (letter.value, len(handler.tries)) == (b"one", 3)

    def test_log_lines_have_the_try_and_the_crashes(self, stage: Stage) -> None:
        stage.publish(b"one")
        counted: list[tuple[int, int]] = []

        def fail(error: Exception | None) -> Callable[[ScriptedRun], None]:
            def step(_: ScriptedRun) -> None:
                context = structlog.contextvars.get_contextvars()
                counted.append((context["attempt"], context["crashes"]))
                if error:
                    raise error

            return step

        stage.run(stage.handler(fail(ZeroDivisionError("a defect")), fail(UNAVAILABLE), fail(UNAVAILABLE), fail(None)))
        stage.outputs(1)
        assert counted == [(1, 0), (1, 1), (2, 1), (3, 1)]


class Refusing(Subscription):
    """A subscription whose broker rejects the service at ``call``."""

    def __init__(self, real: Subscription, call: str) -> None:
        self._real = real
        self._call = call

    def receive(self, timeout: float) -> Delivery | None:
        self._refuse("receive")
        return self._real.receive(timeout)

    def settle(self, delivery: Delivery, *outputs: Message) -> None:
        self._refuse("settle")
        self._real.settle(delivery, *outputs)

    def release(self, delivery: Delivery, *, count_attempt: bool) -> None:
        self._real.release(delivery, count_attempt=count_attempt)

    def close(self) -> None:
        self._real.close()

    def _refuse(self, call: str) -> None:
        if call == self._call:
            raise RefusedError("the broker rejects this service", advice="check the rights of the user uvr")


@pytest.mark.parametrize("call", ["receive", "settle"])
def test_consumer_ends_when_the_broker_rejects_it(stage: Stage, call: str) -> None:
    stage.publish(b"one")
    loop = stage.run(stage.handler(), subscription=Refusing(stage.subscribe(), call), concurrency=2)
    assert isinstance(loop.wait_for_error(), RefusedError)
    stage.loops.remove(loop)
    remaining = stage.next_delivery()
    assert (remaining.message.value, remaining.attempt) == (b"one", 1)


class TestOpenCircuit:
    def test_held_job_is_given_back_at_once_when_the_service_stops(self, stage: Stage) -> None:
        """The grace and the pauses are longer than the test may take."""
        stage.publish(b"one")
        held = threading.Event()
        loop = stage.run(stage.handler(*[hold(held)] * 10), grace=10_000.0, policy=PATIENT)
        assert held.wait(DEADLINE)
        loop.stop_and_join()
        assert stage.next_delivery().attempt == 1

    def test_job_that_fails_during_the_shutdown_is_given_back(self, stage: Stage) -> None:
        stage.publish(b"one")
        working, stopped = threading.Event(), threading.Event()

        def fail_after_the_stop(_: ScriptedRun) -> None:
            working.set()
            assert stopped.wait(DEADLINE)
            raise STORAGE_DOWN

        loop = stage.run(stage.handler(fail_after_the_stop), grace=10_000.0, policy=PATIENT)
        assert working.wait(DEADLINE)
        loop.stop.request("a test")
        stopped.set()
        loop.stop_and_join()
        assert stage.next_delivery().attempt == 1

    def test_member_leaves_when_the_circuit_stays_open(self, stage: Stage) -> None:
        """Its jobs go to another member, uncounted, and it takes no more."""
        stage.publish(b"one", b"two", keys="ab")
        broken = stage.handler(*[STORAGE_DOWN] * 10_000)
        loop = stage.run(broken, concurrency=2, breaker=CircuitBreaker(patience=0.1))
        loop.join()
        loop.breaker.check()
        healthy = stage.handler()
        stage.run(healthy)
        assert stage.outputs(2) == ([b"done"] * 2, [])
        assert sorted(healthy.tries) == [("one", 1), ("two", 1)]


PATIENT = replace(POLICY, infrastructure=replace(POLICY.infrastructure, base=10_000.0, cap=10_000.0))


def hold(held: threading.Event) -> Callable[[ScriptedRun], None]:
    def fail(_: ScriptedRun) -> None:
        held.set()
        raise STORAGE_DOWN

    return fail
