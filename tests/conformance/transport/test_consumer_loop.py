"""The consumer loop on every engine: what it settles, what it tries again, what it puts aside, how it stops."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from pipeline.backoff import Backoff
from pipeline.consuming.circuit_breaker import CircuitBreaker
from pipeline.consuming.consumer import Consumer, JobContext, JobHandler, Outcome
from pipeline.consuming.retry import RetryPolicy
from pipeline.consuming.retry_headers import KEPT_VALUE
from pipeline.errors import (
    ErrorCode,
    InfrastructureError,
    PermanentError,
    PipelineError,
    TransientError,
)
from pipeline.service.shutdown import StopSignal
from pipeline.transport.protocol import MAX_HEADER_BYTES, MAX_VALUE_BYTES, Delivery, Message, Subscription
from tests.conformance.transport.backends import BOTH_ENGINES, LONG_JOB, Backend

# More partitions would make no difference to a loop: the promises say what they do.
pytestmark = pytest.mark.parametrize("backend", BOTH_ENGINES, indirect=True)

PATIENCE = 30.0
SHORT = Backoff(base=0.01, cap=0.05)
DELAYS = (0.2, 0.4)
POLICY = RetryPolicy(max_attempts=3, max_crashes=2, delays=DELAYS, infrastructure=SHORT)

NOT_FOUND = PermanentError("the source answers 404", code=ErrorCode.SOURCE_NOT_FOUND)
UNAVAILABLE = TransientError("the source answers 503", code=ErrorCode.SOURCE_UNAVAILABLE)
STORAGE_DOWN = InfrastructureError("the storage does not answer", code=ErrorCode.STORAGE_UNAVAILABLE)


def parse(message: Message) -> str:
    """A job is text."""
    try:
        return message.value.decode("ascii")
    except UnicodeDecodeError:
        raise PermanentError("the message is not text", code=ErrorCode.MESSAGE_INVALID) from None


@dataclass
class Topics:
    jobs: str
    results: str
    dead_letters: str
    retries: dict[float, str]


@pytest.fixture
def topics(backend: Backend) -> Topics:
    retries = {delay: backend.topic(f"retry-{delay}") for delay in DELAYS}
    return Topics(backend.topic("jobs"), backend.topic("results"), backend.topic("dead-letters"), retries)


Step = Exception | Callable[[JobContext], None] | None


@dataclass
class ScriptedWorker:
    """Does what its script says, a step a call, and succeeds when the script is over."""

    results: str
    script: list[Step] = field(default_factory=list)
    output: bytes = b"done"
    handled: list[tuple[str, int]] = field(default_factory=list)
    """Each call of ``handle``: the job, and which delivery it was."""
    handled_at: list[float] = field(default_factory=list)
    """When each was, s since the epoch."""
    done: threading.Event = field(default_factory=threading.Event)
    """Set when a job has succeeded and is about to be settled."""

    def handle(self, job: str, context: JobContext) -> Outcome:
        self.handled.append((job, context.attempt))
        self.handled_at.append(time.time())
        step = self.script.pop(0) if self.script else None
        if isinstance(step, Exception):
            raise step
        if step is not None:
            step(context)
        self.done.set()
        return Outcome((Message(self.results, "k", self.output),))

    def on_failure(self, job: str, error: PipelineError) -> Outcome:
        return Outcome((Message(self.results, "k", f"failed: {job}: {error.code}".encode()),))


class Loop:
    """A consumer loop in a thread of its own."""

    def __init__(
        self, subscription: Subscription, topics: Topics, worker: JobHandler[str], grace: float, lanes: int
    ) -> None:
        self.stop = StopSignal(grace)
        self.breaker = CircuitBreaker()
        self._consumer = Consumer(
            subscription=subscription,
            parse=parse,
            worker=worker,
            policy=POLICY,
            sources=frozenset([topics.jobs]),
            retry_topics=topics.retries,
            dead_letter_topic=topics.dead_letters,
            stop=self.stop,
            lanes=lanes,
            breaker=self.breaker,
        )
        self._died_of: list[BaseException] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._consumer.run()
        except BaseException as error:  # noqa: BLE001  told by end()
            self._died_of.append(error)

    def died_of(self) -> BaseException:
        """What ended it, when it ends by itself."""
        self._thread.join(PATIENCE)
        (error,) = self._died_of
        return error

    def end(self) -> None:
        """Stop it, and fail if it did not, or had stopped by itself."""
        self.stop.request("the end of the test")
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        assert self._died_of == []


@dataclass
class Stage:
    """Everything that a test needs to let loops run."""

    backend: Backend
    topics: Topics
    group: str
    loops: list[Loop] = field(default_factory=list)

    def publish(self, *values: bytes, keys: str = "") -> None:
        """Jobs with one and the same key, or with the ``keys``, a character each."""
        pairs = zip(keys or "k" * len(values), values, strict=True)
        self.backend.open().publish(*[Message(self.topics.jobs, key, value) for key, value in pairs])

    def subscribe(self) -> Subscription:
        return self.backend.open().subscribe([self.topics.jobs, *self.topics.retries.values()], self.group)

    def worker(self, *script: Step) -> ScriptedWorker:
        return ScriptedWorker(self.topics.results, list(script))

    def run(
        self,
        worker: JobHandler[str],
        *,
        grace: float = PATIENCE,
        subscription: Subscription | None = None,
        lanes: int = 1,
    ) -> Loop:
        loop = Loop(subscription or self.subscribe(), self.topics, worker, grace, lanes)
        self.loops.append(loop)
        return loop

    def outputs(self, results: int, dead_letters: int = 0) -> tuple[list[bytes], list[Message]]:
        """So many of each, and no more, once every job is settled and the loops have left."""
        found: list[Message] = []
        both = [self.topics.results, self.topics.dead_letters]
        subscription = self.backend.open().subscribe(both, f"{self.group}-outputs")
        while len(found) < results + dead_letters:
            delivery = subscription.receive(PATIENCE)
            assert delivery is not None, f"only {found}"
            subscription.settle(delivery)
            found.append(delivery.message)
        for loop in self.loops:
            loop.end()
        assert subscription.receive(0.2) is None
        values = [message.value for message in found if message.topic == self.topics.results]
        letters = [message for message in found if message.topic == self.topics.dead_letters]
        assert (len(values), len(letters)) == (results, dead_letters)
        return values, letters

    def left(self) -> Delivery:
        """The next job that is there for a consumer that comes later."""
        delivery = self.subscribe().receive(PATIENCE)
        assert delivery is not None, "nothing is left"
        return delivery

    def nothing_is_left(self) -> bool:
        self.publish(b"sentinel")
        return self.left().message.value == b"sentinel"


@pytest.fixture
def stage(backend: Backend, topics: Topics, group: str) -> Iterator[Stage]:
    stage = Stage(backend, topics, group)
    yield stage
    for loop in stage.loops:
        loop.end()


class TestOutcomes:
    def test_a_success_is_settled_with_its_outputs(self, stage: Stage) -> None:
        stage.publish(b"one", b"two")
        worker = stage.worker()
        stage.run(worker)
        assert stage.outputs(2) == ([b"done", b"done"], [])
        assert worker.handled == [("one", 1), ("two", 1)]
        assert stage.nothing_is_left()

    def test_a_permanent_failure_is_reported_at_once(self, stage: Stage) -> None:
        stage.publish(b"one", b"two")
        worker = stage.worker(NOT_FOUND)
        stage.run(worker)
        assert stage.outputs(2) == ([b"failed: one: source_not_found", b"done"], [])
        assert worker.handled == [("one", 1), ("two", 1)]

    def test_a_transient_failure_is_tried_again(self, stage: Stage) -> None:
        stage.publish(b"one")
        worker = stage.worker(UNAVAILABLE, UNAVAILABLE)
        stage.run(worker)
        assert stage.outputs(1) == ([b"done"], [])
        assert worker.handled == [("one", 1)] * 3
        waits = [later - earlier for earlier, later in pairwise(worker.handled_at)]
        assert [wait >= delay - 0.001 for wait, delay in zip(waits, DELAYS, strict=True)] == [True, True]
        assert stage.nothing_is_left()

    def test_what_waits_to_be_tried_again_holds_up_nobody(self, stage: Stage) -> None:
        stage.publish(b"one", b"two", keys="ab")
        worker = stage.worker(UNAVAILABLE)
        stage.run(worker)
        assert stage.outputs(2) == ([b"done", b"done"], [])
        # On a slow machine its time has come before the other one's turn.
        assert sorted(worker.handled) == [("one", 1), ("one", 1), ("two", 1)]

    def test_what_became_of_it_is_on_record_where_it_waits(self, stage: Stage) -> None:
        stage.publish(b"one")
        before = time.time()
        stage.run(stage.worker(UNAVAILABLE, UNAVAILABLE))
        stage.outputs(1)

        (stored,) = stage.backend.open().browse(stage.topics.retries[DELAYS[1]])

        headers = stored.message.headers
        assert (stored.message.key, stored.message.value) == ("k", b"one")
        assert headers["original-topic"] == stage.topics.jobs.encode()
        assert (headers["attempts"], headers["crashes"]) == (b"2", b"0")
        assert headers["last-error"] == b"source_unavailable: the source answers 503"
        assert before - 0.001 <= float(headers["first-failed-at"]) <= float(headers["not-before"]) / 1000 - sum(DELAYS)

    def test_another_workers_retries_are_passed_by(self, stage: Stage) -> None:
        somebody_elses = {"original-topic": b"another-topic", "attempts": b"1"}
        stage.backend.open().publish(Message(stage.topics.retries[DELAYS[0]], "k", b"not ours", somebody_elses))
        stage.publish(b"ours")
        worker = stage.worker()
        stage.run(worker)
        assert stage.outputs(1) == ([b"done"], [])
        assert worker.handled == [("ours", 1)]
        assert stage.nothing_is_left()

    def test_once_too_often_it_is_reported(self, stage: Stage) -> None:
        stage.publish(b"one")
        worker = stage.worker(*[UNAVAILABLE] * 5)
        stage.run(worker)
        assert stage.outputs(1) == ([b"failed: one: source_unavailable"], [])
        assert worker.handled == [("one", 1)] * POLICY.max_attempts

    def test_a_failure_of_our_own_surroundings_spends_nobodys_attempt(self, stage: Stage) -> None:
        stage.publish(b"one")
        outage: list[Step] = [STORAGE_DOWN] * (POLICY.max_attempts * 3)
        worker = stage.worker(UNAVAILABLE, *outage, UNAVAILABLE)
        stage.run(worker)
        assert stage.outputs(1) == ([b"done"], [])
        assert worker.handled == [("one", 1)] * (len(outage) + 3)


class TestTheCircuitBreaker:
    def test_while_our_surroundings_fail_nothing_new_is_taken(self, stage: Stage) -> None:
        """Two lanes, one of which meets the fault; the other is free, and takes nothing until it is over."""
        stage.publish(b"one")
        failing, over = threading.Event(), threading.Event()

        def fail_until_it_is_over(_: JobContext) -> None:
            failing.set()
            if not over.is_set():
                raise STORAGE_DOWN

        worker = stage.worker(*[fail_until_it_is_over] * 10_000)
        loop = stage.run(worker, lanes=2)
        assert failing.wait(PATIENCE)
        stage.publish(b"two", keys="b")
        tries = len(worker.handled) + 20
        until = time.monotonic() + PATIENCE
        while len(worker.handled) < tries:
            assert time.monotonic() < until
        with pytest.raises(InfrastructureError, match="the storage does not answer"):
            loop.breaker.check()
        assert {job for job, _ in worker.handled} == {"one"}

        over.set()

        assert stage.outputs(2) == ([b"done", b"done"], [])
        loop.breaker.check()

    def test_what_a_held_job_has_done_so_far_is_kept_for_its_next_try(self, stage: Stage) -> None:
        stage.publish(b"one")
        told: list[object] = []

        def first(context: JobContext) -> None:
            context.exit.callback(told.append, "over")
            context.scratch["stems"] = "separated"
            raise STORAGE_DOWN

        def second(context: JobContext) -> None:
            told.append(context.scratch["stems"])

        stage.run(stage.worker(first, second))
        stage.outputs(1)
        assert told == ["separated", "over"]

    def test_but_not_when_the_disk_is_full(self, stage: Stage) -> None:
        stage.publish(b"one")
        told: list[object] = []

        def first(context: JobContext) -> None:
            context.exit.callback(told.append, "given back")
            context.scratch["stems"] = "separated"
            raise InfrastructureError("the disk is full", code=ErrorCode.DISK_FULL)

        def second(context: JobContext) -> None:
            told.append(dict(context.scratch))

        stage.run(stage.worker(first, second))
        stage.outputs(1)
        assert told == ["given back", {}]


class TestLanes:
    def test_as_many_jobs_are_in_hand_as_there_are_lanes(self, stage: Stage) -> None:
        stage.publish(b"one", b"two", b"three", keys="abc")
        together = threading.Barrier(3)

        def meet(_: JobContext) -> None:
            together.wait(PATIENCE)

        stage.run(stage.worker(meet, meet, meet), lanes=3)
        assert stage.outputs(3) == ([b"done"] * 3, [])

    def test_but_one_of_each_key(self, stage: Stage) -> None:
        stage.publish(*[f"{number}".encode() for number in range(6)], keys="ababab")
        busy: set[str] = set()

        class Exclusive(ScriptedWorker):
            def handle(self, job: str, context: JobContext) -> Outcome:
                key = "ab"[int(job) % 2]
                assert key not in busy  # a defect would be dead-lettered
                busy.add(key)
                outcome = super().handle(job, context)
                busy.remove(key)
                return outcome

        worker = Exclusive(stage.topics.results)
        stage.run(worker, lanes=4)
        assert stage.outputs(6) == ([b"done"] * 6, [])
        handled = [int(job) for job, _ in worker.handled]
        assert [job for job in handled if job % 2] == [1, 3, 5]
        assert [job for job in handled if not job % 2] == [0, 2, 4]

    def test_a_job_settled_out_of_order_is_not_done_again_after_a_death(self, stage: Stage) -> None:
        stage.publish(b"first", b"second", keys="ab")
        member = stage.backend.member(stage.topics.jobs, stage.group, mode="hold-first")
        assert member.read_report()["event"] == "settled"
        member.end()
        worker = stage.worker()
        stage.run(worker)
        stage.outputs(1)
        assert worker.handled == [("first", 2)]

    def test_a_lane_that_dies_ends_the_consumer(self, stage: Stage) -> None:
        class Broken:
            def handle(self, job: str, context: JobContext) -> Outcome:
                raise SystemExit(3)

            def on_failure(self, job: str, error: PipelineError) -> Outcome:
                raise AssertionError("it is not asked")

        stage.publish(b"one")
        loop = stage.run(Broken(), lanes=2)
        stage.loops.remove(loop)
        assert isinstance(loop.died_of(), SystemExit)


class TestPoison:
    @pytest.mark.slow
    def test_a_job_that_killed_its_process_twice_is_put_aside(self, stage: Stage) -> None:
        stage.publish(b"one", b"two")
        for attempt in (1, 2):
            member = stage.backend.member(stage.topics.jobs, stage.group, mode="work")
            assert member.read_report() == {"event": "working", "key": "k", "attempt": attempt}
            member.end()
        worker = stage.worker()
        stage.run(worker)

        results, (letter,) = stage.outputs(2, dead_letters=1)

        assert results == [b"failed: one: worker_died", b"done"]
        assert worker.handled == [("two", 1)]
        assert (letter.key, letter.value) == ("k", b"one")
        assert letter.headers["error-code"] == b"worker_died"
        assert letter.headers["original-topic"] == stage.topics.jobs.encode()

    def test_a_defect_counts_as_a_death(self, stage: Stage) -> None:
        stage.publish(b"one", b"two")
        worker = stage.worker(ZeroDivisionError("a defect"), ZeroDivisionError("a defect"))
        stage.run(worker)

        results, (letter,) = stage.outputs(2, dead_letters=1)

        assert results == [b"failed: one: internal", b"done"]
        assert worker.handled == [("one", 1), ("one", 2), ("two", 1)]
        assert letter.value == b"one"

    def test_a_failure_that_cannot_be_reported_yet_is_reported_later(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stage.publish(b"one")
        worker = stage.worker(NOT_FOUND)
        report, outages = worker.on_failure, iter(range(3))

        def report_in_the_end(job: str, error: PipelineError) -> Outcome:
            if next(outages, None) is not None:
                raise STORAGE_DOWN
            return report(job, error)

        monkeypatch.setattr(worker, "on_failure", report_in_the_end)
        stage.run(worker)
        assert stage.outputs(1) == ([b"failed: one: source_not_found"], [])
        assert next(outages, None) is None

    def test_a_job_that_cannot_even_fail_is_put_aside(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        stage.publish(b"one", b"two")
        worker = stage.worker(NOT_FOUND)
        monkeypatch.setattr(worker, "on_failure", lambda *_: 1 / 0)
        stage.run(worker)

        results, (letter,) = stage.outputs(1, dead_letters=1)

        assert results == [b"done"]
        assert (letter.value, letter.headers["error-code"]) == (b"one", b"source_not_found")


class TestUnparsable:
    def test_it_becomes_a_dead_letter_as_it_is_and_the_next_job_is_done(self, stage: Stage) -> None:
        stage.backend.open().publish(
            Message(stage.topics.jobs, "k", b"\xff\x00raw", {"trace": b"\x01"}), Message(stage.topics.jobs, "k", b"two")
        )
        worker = stage.worker()
        stage.run(worker)

        results, (letter,) = stage.outputs(1, dead_letters=1)

        assert results == [b"done"]
        assert worker.handled == [("two", 1)]
        assert (letter.key, letter.value, letter.headers["trace"]) == ("k", b"\xff\x00raw", b"\x01")
        assert letter.headers["error-kind"] == b"permanent"
        assert letter.headers["error-message"] == b"the message is not text"
        assert float(letter.headers["failed-at"]) > 0

    def test_one_too_large_for_a_dead_letter_is_shortened(self, stage: Stage) -> None:
        value = b"\xff" * MAX_VALUE_BYTES
        full = Message(stage.topics.jobs, "k", value, {"h": bytes(MAX_HEADER_BYTES - 100)})
        stage.backend.open().publish(full, Message(stage.topics.jobs, "k", b"two"))
        stage.run(stage.worker())

        results, (letter,) = stage.outputs(1, dead_letters=1)

        assert results == [b"done"]
        assert letter.value == value[:KEPT_VALUE]
        assert letter.headers["original-bytes"] == str(MAX_VALUE_BYTES).encode()


class TestTooLargeOutcomes:
    def test_the_job_fails_instead_of_coming_again_for_ever(self, stage: Stage) -> None:
        stage.publish(b"one")
        worker = stage.worker()
        worker.output = bytes(MAX_VALUE_BYTES + 1)
        stage.run(worker)

        results, (letter,) = stage.outputs(1, dead_letters=1)

        assert results == [b"failed: one: message_too_large"]
        assert letter.value == b"one"


class TestSettling:
    def test_a_job_that_was_lost_is_not_settled(self, stage: Stage) -> None:
        subscription = stage.subscribe()
        stage.publish(b"one")
        worker = stage.worker(lambda _: subscription.close())  # the surest way to lose a job
        loop = stage.run(worker, subscription=subscription)
        assert worker.done.wait(PATIENCE)
        loop.end()

        again = stage.worker()
        stage.run(again)

        assert stage.outputs(1) == ([b"done"], [])
        assert again.handled == [("one", 1)]


class TestStopping:
    def test_the_job_in_hand_is_finished_and_no_other_begun(self, stage: Stage) -> None:
        stage.publish(b"one", b"two")
        working, go_on = threading.Event(), threading.Event()

        def work(_: JobContext) -> None:
            working.set()
            assert go_on.wait(PATIENCE)

        worker = stage.worker(work)
        loop = stage.run(worker)
        assert working.wait(PATIENCE)
        loop.stop.request("a test")
        go_on.set()
        loop.end()

        assert worker.handled == [("one", 1)]
        assert stage.outputs(1) == ([b"done"], [])
        left = stage.left()
        assert (left.message.value, left.attempt) == (b"two", 1)

    def test_past_the_grace_it_is_given_back_and_not_counted(self, stage: Stage) -> None:
        stage.publish(b"one")
        working = threading.Event()

        def hang(context: JobContext) -> None:
            working.set()
            assert context.cancel.wait(PATIENCE)
            context.cancel.raise_if_set()

        loop = stage.run(stage.worker(hang), grace=0.1)
        assert working.wait(PATIENCE)
        loop.end()
        next_worker = stage.worker()
        stage.run(next_worker)

        assert stage.outputs(1) == ([b"done"], [])
        assert next_worker.handled == [("one", 1)]

    def test_a_job_that_is_held_is_given_back_as_well(self, stage: Stage) -> None:
        stage.publish(b"one")
        waiting = threading.Event()

        def fail(_: JobContext) -> None:
            waiting.set()
            raise STORAGE_DOWN

        loop = stage.run(stage.worker(*[fail] * 10_000), grace=0.1)
        assert waiting.wait(PATIENCE)
        loop.end()
        left = stage.left()
        assert left.attempt == 1


class TestLongJobs:
    @pytest.mark.slow
    def test_a_handler_may_outlast_every_time_out(self, stage: Stage) -> None:
        lost: list[bool] = []

        def work(context: JobContext) -> None:
            lost.append(context.cancel.wait(LONG_JOB))
            context.cancel.raise_if_set()

        stage.publish(b"one")
        workers = [stage.worker(work, work) for _ in range(2)]
        for worker in workers:
            stage.run(worker)

        assert stage.outputs(1) == ([b"done"], [])
        # The group may share its partitions out anew while its members come; after that nothing takes the job away.
        assert lost in ([False], [True, False])
        assert {attempt for worker in workers for _, attempt in worker.handled} == {1}
