"""The consumer loop on every engine: outcomes, retries, dead letters, the circuit breaker, shutdown."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest

from pipeline.consuming.handler import JobContext, Outcome
from pipeline.consuming.retry_headers import KEPT_VALUE
from pipeline.errors import ErrorCode, InfrastructureError, PipelineError
from pipeline.transport.protocol import MAX_HEADER_BYTES, MAX_VALUE_BYTES, Message
from tests.conformance.transport.backends import BOTH_ENGINES, LONG_JOB
from tests.conformance.transport.consumer_stage import (
    DEADLINE,
    DELAYS,
    NOT_FOUND,
    POLICY,
    STORAGE_DOWN,
    UNAVAILABLE,
    ScriptedHandler,
    ScriptedRun,
    Stage,
    Step,
)

# The loop does not depend on the number of partitions; the promises of the transport cover them.
pytestmark = pytest.mark.parametrize("backend", BOTH_ENGINES, indirect=True)


class TestOutcomes:
    def test_success_is_settled_with_its_outputs(self, stage: Stage) -> None:
        stage.publish(b"one", b"two")
        handler = stage.handler()
        stage.run(handler)
        assert stage.outputs(2) == ([b"done", b"done"], [])
        assert handler.tries == [("one", 1), ("two", 1)]
        assert stage.is_drained()

    def test_permanent_failure_is_reported_at_once(self, stage: Stage) -> None:
        stage.publish(b"one", b"two")
        handler = stage.handler(NOT_FOUND)
        stage.run(handler)
        assert stage.outputs(2) == ([b"failed: one: source_not_found", b"done"], [])
        assert handler.tries == [("one", 1), ("two", 1)]

    def test_transient_failure_is_retried(self, stage: Stage) -> None:
        stage.publish(b"one")
        handler = stage.handler(UNAVAILABLE, UNAVAILABLE)
        stage.run(handler)
        assert stage.outputs(1) == ([b"done"], [])
        assert handler.tries == [("one", 1)] * 3
        waits = [later - earlier for earlier, later in pairwise(handler.tried_at)]
        assert [wait >= delay - 0.001 for wait, delay in zip(waits, DELAYS, strict=True)] == [True, True]
        assert stage.is_drained()

    def test_waiting_retry_blocks_no_other_job(self, stage: Stage) -> None:
        stage.publish(b"one", b"two", keys="ab")
        handler = stage.handler(UNAVAILABLE)
        stage.run(handler)
        assert stage.outputs(2) == ([b"done", b"done"], [])
        # On a slow machine the retry may be due before the other job is received.
        assert sorted(handler.tries) == [("one", 1), ("one", 1), ("two", 1)]

    def test_retry_headers_record_the_history(self, stage: Stage) -> None:
        stage.publish(b"one")
        before = time.time()
        stage.run(stage.handler(UNAVAILABLE, UNAVAILABLE))
        stage.outputs(1)

        (stored,) = stage.backend.open().browse(stage.topics.retries[DELAYS[1]])

        headers = stored.message.headers
        assert (stored.message.key, stored.message.value) == ("k", b"one")
        assert headers["original-topic"] == stage.topics.jobs.encode()
        assert (headers["attempts"], headers["crashes"]) == (b"2", b"0")
        assert headers["last-error"] == b"source_unavailable: the source answers 503"
        assert before - 0.001 <= float(headers["first-failed-at"]) <= float(headers["not-before"]) / 1000 - sum(DELAYS)

    def test_retries_of_another_worker_are_skipped(self, stage: Stage) -> None:
        foreign = {"original-topic": b"another-topic", "attempts": b"1"}
        stage.backend.open().publish(Message(stage.topics.retries[DELAYS[0]], "k", b"foreign", foreign))
        stage.publish(b"own")
        handler = stage.handler()
        stage.run(handler)
        assert stage.outputs(1) == ([b"done"], [])
        assert handler.tries == [("own", 1)]
        assert stage.is_drained()

    def test_transient_failure_is_reported_after_the_last_attempt(self, stage: Stage) -> None:
        stage.publish(b"one")
        handler = stage.handler(*[UNAVAILABLE] * 5)
        stage.run(handler)
        assert stage.outputs(1) == ([b"failed: one: source_unavailable"], [])
        assert handler.tries == [("one", 1)] * POLICY.max_attempts

    def test_infrastructure_fault_spends_no_attempt(self, stage: Stage) -> None:
        stage.publish(b"one")
        outage: list[Step] = [STORAGE_DOWN] * (POLICY.max_attempts * 3)
        handler = stage.handler(UNAVAILABLE, *outage, UNAVAILABLE)
        stage.run(handler)
        assert stage.outputs(1) == ([b"done"], [])
        assert handler.tries == [("one", 1)] * (len(outage) + 3)


class TestCircuitBreaker:
    def test_no_new_job_is_received_during_an_infrastructure_fault(self, stage: Stage) -> None:
        """One of two worker threads meets the fault; the idle one receives nothing until the fault is over."""
        stage.publish(b"one")
        failing, over = threading.Event(), threading.Event()

        def fail_until_over(_: ScriptedRun) -> None:
            failing.set()
            if not over.is_set():
                raise STORAGE_DOWN

        handler = stage.handler(*[fail_until_over] * 10_000)
        loop = stage.run(handler, concurrency=2)
        assert failing.wait(DEADLINE)
        stage.publish(b"two", keys="b")
        tries = len(handler.tries) + 20
        until = time.monotonic() + DEADLINE
        while len(handler.tries) < tries:
            assert time.monotonic() < until
        with pytest.raises(InfrastructureError, match="the storage does not answer"):
            loop.breaker.check()
        assert {job for job, _ in handler.tries} == {"one"}

        over.set()

        assert stage.outputs(2) == ([b"done", b"done"], [])
        loop.breaker.check()

    def test_run_of_a_held_job_is_kept_for_its_next_try(self, stage: Stage) -> None:
        stage.publish(b"one")
        events: list[object] = []

        def first(run: ScriptedRun) -> None:
            run.kept.append("separated")
            raise STORAGE_DOWN

        def second(run: ScriptedRun) -> None:
            events.extend([*run.kept, list(run.handler.closed)])

        handler = stage.handler(first, second)
        stage.run(handler)
        stage.outputs(1)
        assert (events, handler.closed) == (["separated", []], ["one"])

    @pytest.mark.parametrize("code", [ErrorCode.DISK_FULL, ErrorCode.WORK_FILES_LOST])
    def test_run_of_a_held_job_begins_anew_when_its_files_must_go_or_are_gone(
        self, code: ErrorCode, stage: Stage
    ) -> None:
        stage.publish(b"one")
        events: list[object] = []

        def first(run: ScriptedRun) -> None:
            run.kept.append("separated")
            raise InfrastructureError("the job must begin again", code=code)

        def second(run: ScriptedRun) -> None:
            events.extend([*run.kept, list(run.handler.closed)])

        handler = stage.handler(first, second)
        stage.run(handler)
        stage.outputs(1)
        assert (events, handler.closed) == ([["one"]], ["one", "one"])

    def test_run_that_cannot_begin_or_close_is_retried_and_logged(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stage.publish(b"one", b"two")
        handler = stage.handler()
        begin, outages = handler.begin, iter(range(3))

        def begin_after_outages(job: str, context: JobContext) -> ScriptedRun:
            if next(outages, None) is not None:
                raise STORAGE_DOWN
            return begin(job, context)

        monkeypatch.setattr(handler, "begin", begin_after_outages)
        monkeypatch.setattr(ScriptedRun, "close", lambda _: 1 / 0)
        stage.run(handler)
        assert stage.outputs(2) == ([b"done", b"done"], [])
        assert handler.tries == [("one", 1), ("two", 1)]


class TestWorkerThreads:
    def test_each_thread_handles_a_job(self, stage: Stage) -> None:
        stage.publish(b"one", b"two", b"three", keys="abc")
        together = threading.Barrier(3)

        def meet(_: ScriptedRun) -> None:
            together.wait(DEADLINE)

        stage.run(stage.handler(meet, meet, meet), concurrency=3)
        assert stage.outputs(3) == ([b"done"] * 3, [])

    def test_jobs_with_the_same_key_are_handled_one_at_a_time(self, stage: Stage) -> None:
        stage.publish(*[f"{number}".encode() for number in range(6)], keys="ababab")
        busy: set[str] = set()

        class ExclusiveRun(ScriptedRun):
            def handle(self) -> Outcome:
                key = "ab"[int(self.job) % 2]
                assert key not in busy  # a failure here would become a dead letter
                busy.add(key)
                outcome = super().handle()
                busy.remove(key)
                return outcome

        class ExclusiveHandler(ScriptedHandler):
            def begin(self, job: str, context: JobContext) -> ExclusiveRun:
                return ExclusiveRun(self, job, context)

        handler = ExclusiveHandler(stage.topics.results)
        stage.run(handler, concurrency=4)
        assert stage.outputs(6) == ([b"done"] * 6, [])
        handled = [int(job) for job, _ in handler.tries]
        assert [job for job in handled if job % 2] == [1, 3, 5]
        assert [job for job in handled if not job % 2] == [0, 2, 4]

    def test_job_settled_out_of_order_is_not_redelivered_after_a_crash(self, stage: Stage) -> None:
        stage.publish(b"first", b"second", keys="ab")
        member = stage.backend.member(stage.topics.jobs, stage.group, mode="hold-first")
        assert member.read_report()["event"] == "settled"
        member.end()
        handler = stage.handler()
        stage.run(handler)
        stage.outputs(1)
        assert handler.tries == [("first", 2)]

    def test_dead_thread_ends_the_consumer(self, stage: Stage) -> None:
        class BrokenRun(ScriptedRun):
            def handle(self) -> Outcome:
                raise SystemExit(3)

        class BrokenHandler(ScriptedHandler):
            def begin(self, job: str, context: JobContext) -> BrokenRun:
                return BrokenRun(self, job, context)

            def on_failure(self, job: str, error: PipelineError) -> Outcome:
                raise AssertionError("a dead thread reports no failure")

        stage.publish(b"one")
        handler = BrokenHandler(stage.topics.results)
        loop = stage.run(handler, concurrency=2)
        stage.loops.remove(loop)
        assert isinstance(loop.wait_for_error(), SystemExit)
        assert handler.closed == ["one"]


class TestPoison:
    @pytest.mark.slow
    def test_job_that_crashed_its_process_twice_is_quarantined(self, stage: Stage) -> None:
        stage.publish(b"one", b"two")
        for attempt in (1, 2):
            member = stage.backend.member(stage.topics.jobs, stage.group, mode="work")
            assert member.read_report() == {"event": "working", "key": "k", "attempt": attempt}
            member.end()
        handler = stage.handler()
        stage.run(handler)

        results, (letter,) = stage.outputs(2, dead_letters=1)

        assert results == [b"failed: one: worker_died", b"done"]
        assert handler.tries == [("two", 1)]
        assert (letter.key, letter.value) == ("k", b"one")
        assert letter.headers["error-code"] == b"worker_died"
        assert letter.headers["original-topic"] == stage.topics.jobs.encode()

    def test_unexpected_error_counts_as_a_crash(self, stage: Stage) -> None:
        stage.publish(b"one", b"two")
        handler = stage.handler(ZeroDivisionError("a defect"), ZeroDivisionError("a defect"))
        stage.run(handler)

        results, (letter,) = stage.outputs(2, dead_letters=1)

        assert results == [b"failed: one: internal", b"done"]
        assert handler.tries == [("one", 1), ("one", 2), ("two", 1)]
        assert letter.value == b"one"

    def test_failure_report_waits_for_the_end_of_an_outage(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        stage.publish(b"one")
        handler = stage.handler(NOT_FOUND)
        report, outages = handler.on_failure, iter(range(3))

        def report_after_outages(job: str, error: PipelineError) -> Outcome:
            if next(outages, None) is not None:
                raise STORAGE_DOWN
            return report(job, error)

        monkeypatch.setattr(handler, "on_failure", report_after_outages)
        stage.run(handler)
        assert stage.outputs(1) == ([b"failed: one: source_not_found"], [])
        assert next(outages, None) is None

    def test_job_whose_report_fails_becomes_a_dead_letter(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        stage.publish(b"one", b"two")
        handler = stage.handler(NOT_FOUND)
        monkeypatch.setattr(handler, "on_failure", lambda *_: 1 / 0)
        stage.run(handler)

        results, (letter,) = stage.outputs(1, dead_letters=1)

        assert results == [b"done"]
        assert (letter.value, letter.headers["error-code"]) == (b"one", b"source_not_found")


class TestUnparsable:
    def test_unparsable_message_becomes_a_dead_letter_unchanged(self, stage: Stage) -> None:
        stage.backend.open().publish(
            Message(stage.topics.jobs, "k", b"\xff\x00raw", {"trace": b"\x01"}), Message(stage.topics.jobs, "k", b"two")
        )
        handler = stage.handler()
        stage.run(handler)

        results, (letter,) = stage.outputs(1, dead_letters=1)

        assert results == [b"done"]
        assert handler.tries == [("two", 1)]
        assert (letter.key, letter.value, letter.headers["trace"]) == ("k", b"\xff\x00raw", b"\x01")
        assert letter.headers["error-kind"] == b"permanent"
        assert letter.headers["error-message"] == b"the message is not text"
        assert float(letter.headers["failed-at"]) > 0

    def test_oversized_dead_letter_is_truncated(self, stage: Stage) -> None:
        value = b"\xff" * MAX_VALUE_BYTES
        full = Message(stage.topics.jobs, "k", value, {"h": bytes(MAX_HEADER_BYTES - 100)})
        stage.backend.open().publish(full, Message(stage.topics.jobs, "k", b"two"))
        stage.run(stage.handler())

        results, (letter,) = stage.outputs(1, dead_letters=1)

        assert results == [b"done"]
        assert letter.value == value[:KEPT_VALUE]
        assert letter.headers["original-bytes"] == str(MAX_VALUE_BYTES).encode()


class TestTooLargeOutcomes:
    def test_job_with_an_oversized_outcome_fails(self, stage: Stage) -> None:
        stage.publish(b"one")
        handler = stage.handler()
        handler.output = bytes(MAX_VALUE_BYTES + 1)
        stage.run(handler)

        results, (letter,) = stage.outputs(1, dead_letters=1)

        assert results == [b"failed: one: message_too_large"]
        assert letter.value == b"one"


class TestSettling:
    def test_lost_job_is_not_settled(self, stage: Stage) -> None:
        subscription = stage.subscribe()
        stage.publish(b"one")
        handler = stage.handler(lambda _: subscription.close())  # loses the job for certain
        loop = stage.run(handler, subscription=subscription)
        assert handler.done.wait(DEADLINE)
        loop.stop_and_join()

        again = stage.handler()
        stage.run(again)

        assert stage.outputs(1) == ([b"done"], [])
        assert again.tries == [("one", 1)]


class TestStopping:
    def test_current_job_is_finished_and_no_other_begun(self, stage: Stage) -> None:
        stage.publish(b"one", b"two")
        working, go_on = threading.Event(), threading.Event()

        def work(_: ScriptedRun) -> None:
            working.set()
            assert go_on.wait(DEADLINE)

        handler = stage.handler(work)
        loop = stage.run(handler)
        assert working.wait(DEADLINE)
        loop.stop.request("a test")
        go_on.set()
        loop.stop_and_join()

        assert handler.tries == [("one", 1)]
        assert stage.outputs(1) == ([b"done"], [])
        remaining = stage.next_delivery()
        assert (remaining.message.value, remaining.attempt) == (b"two", 1)

    def test_job_is_released_uncounted_at_the_deadline(self, stage: Stage) -> None:
        stage.publish(b"one")
        working = threading.Event()

        def wait_for_cancellation(run: ScriptedRun) -> None:
            working.set()
            assert run.context.cancel.wait(DEADLINE)
            run.context.cancel.raise_if_set()

        loop = stage.run(stage.handler(wait_for_cancellation), grace=0.1)
        assert working.wait(DEADLINE)
        loop.stop_and_join()
        next_handler = stage.handler()
        stage.run(next_handler)

        assert stage.outputs(1) == ([b"done"], [])
        assert next_handler.tries == [("one", 1)]

    def test_held_job_is_released_at_the_deadline(self, stage: Stage) -> None:
        stage.publish(b"one")
        waiting = threading.Event()

        def fail(_: ScriptedRun) -> None:
            waiting.set()
            raise STORAGE_DOWN

        loop = stage.run(stage.handler(*[fail] * 10_000), grace=0.1)
        assert waiting.wait(DEADLINE)
        loop.stop_and_join()
        remaining = stage.next_delivery()
        assert remaining.attempt == 1


class TestLongJobs:
    @pytest.mark.slow
    def test_handler_may_take_longer_than_every_timeout(self, stage: Stage) -> None:
        lost: list[bool] = []

        def work(run: ScriptedRun) -> None:
            lost.append(run.context.cancel.wait(LONG_JOB))
            run.context.cancel.raise_if_set()

        stage.publish(b"one")
        handlers = [stage.handler(work, work) for _ in range(2)]
        for handler in handlers:
            stage.run(handler)

        assert stage.outputs(1) == ([b"done"], [])
        # The group may rebalance while its members join; after that no member loses the job.
        assert lost in ([False], [True, False])
        assert {attempt for handler in handlers for _, attempt in handler.tries} == {1}
