"""The one consumer loop: receive, work, settle, retry, dead-letter, stop.

    receive ──▶ parse ──▶ handle ──▶ outputs durable, offset advanced (settle)
                  │          │
                  │          ├─ permanent, or transient once too often ─▶ on_failure(…) is settled instead
                  │          ├─ transient       to a retry topic, one attempt spent
                  │          ├─ infrastructure  circuit open: wait, handle again, nothing spent, nothing new taken
                  │          ├─ poison          give back, counted; after ``max_crashes``: dead letter + on_failure(…)
                  │          └─ cancelled       stop, publish nothing
                  └─ unparsable ─▶ dead letter with the raw bytes

Several lanes, one thread each, run this loop on one subscription, so that one job can be prepared while another is
being worked on. If the power goes at any line, the delivery has not been settled and comes again.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from pipeline.backoff import Backoff
from pipeline.cancellation import CancelToken
from pipeline.consuming.circuit_breaker import CircuitBreaker
from pipeline.consuming.retry import Action, Decision, RetryPolicy
from pipeline.consuming.retry_headers import RetryHeaders, dead_letter, retry_message, shortened
from pipeline.errors import (
    CancelledError,
    ErrorCode,
    ErrorKind,
    InfrastructureError,
    PermanentError,
    PipelineError,
    PoisonError,
)
from pipeline.service import metrics
from pipeline.service.logs import get_logger, log_context
from pipeline.service.shutdown import StopSignal
from pipeline.transport.protocol import Delivery, Message, Subscription

log = get_logger(__name__)

#: How long one ``receive`` waits, s: the longest that an idle lane takes to see a stop.
RECEIVE_TIMEOUT = 0.5
#: Pause after the broker could not be reached, s.
OUTAGE_PAUSE = 1.0

Job = TypeVar("Job")
JobIn = TypeVar("JobIn", contravariant=True)


@dataclass(frozen=True, slots=True)
class JobContext:
    """What a handler knows of the delivery that it works on. The same one at every try of a held job."""

    cancel: CancelToken
    attempt: int
    """1 for the first delivery, +1 for each worker that the job has taken down."""
    scratch: dict[str, object] = field(default_factory=dict)
    """For what need not be done again when a held job is tried again."""
    exit: ExitStack = field(default_factory=ExitStack)
    """Closed when the delivery is over, whatever its end, and when the disk is full; ``scratch`` is emptied with it."""

    def clear(self) -> None:
        """Give back what the tries so far have kept."""
        self.scratch.clear()
        self.exit.close()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a job, and the messages to make durable with it."""

    outputs: Sequence[Message] = ()
    end: str = "done"
    """What it was, in a word, for logs and metrics."""


class JobHandler(Protocol[JobIn]):
    """What a service does with its jobs. Thread-safe: it is shared by all lanes."""

    def handle(self, job: JobIn, context: JobContext) -> Outcome:
        """Do the work. Raises PipelineErrors; must be safe to repeat."""

    def on_failure(self, job: JobIn, error: PipelineError) -> Outcome:
        """The outcome of a job that has failed for good. Raises InfrastructureErrors alone."""


@dataclass(frozen=True, slots=True)
class Consumer(Generic[Job]):
    """Runs jobs of one subscription until it is told to stop."""

    subscription: Subscription
    parse: Callable[[Message], Job]
    """Raises PermanentError for a message that is not a job."""
    worker: JobHandler[Job]
    policy: RetryPolicy
    sources: frozenset[str]
    """Topics where its jobs come in first. What others' jobs are, in the retry topics, is passed by."""
    retry_topics: Mapping[float, str]
    """By their delay, s: one for each of the policy's."""
    dead_letter_topic: str
    stop: StopSignal
    lanes: int = 1
    """How many jobs may be in hand."""
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    rng: random.Random = field(default_factory=random.Random)

    def run(self) -> None:
        """Work until the stop signal, then leave the group. Jobs in hand are finished or given back.

        Raises InfrastructureError (code ``broker_refused``) if the broker refuses this service for good.
        """
        outage = _Outage(self.policy.infrastructure, self.rng)
        ends: list[BaseException] = []

        def lane() -> None:
            try:
                self._consume(outage)
            except BaseException as error:  # noqa: BLE001  raised again below
                ends.append(error)
                # A consumer with a lane that is dead would look alive and take less and less.
                self.stop.request("a lane has failed")

        threads = [threading.Thread(target=lane, name=f"lane-{number}") for number in range(1, self.lanes + 1)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            self.subscription.close()
        if ends:
            raise ends[0]

    def _consume(self, outage: _Outage) -> None:
        while not self.stop.is_set():
            if not self.breaker.wait_closed(RECEIVE_TIMEOUT):
                continue
            try:
                delivery = self.subscription.receive(RECEIVE_TIMEOUT)
            except InfrastructureError as error:
                raise_if_refused(error)
                outage.seen(error)
                self.stop.wait(OUTAGE_PAUSE)
                continue
            outage.over()
            if delivery is None:
                continue
            if self.breaker.wait_closed(0.0) and not self.stop.is_set():
                self._process(delivery)
            else:  # the circuit has opened, or the stop has come, while this lane was waiting
                self._release(delivery, count_attempt=False)

    def _process(self, delivery: Delivery) -> None:
        topic, started = delivery.message.topic, time.monotonic()
        metrics.deliveries.labels(topic, str(delivery.attempt > 1).lower()).inc()
        self.stop.on_deadline(delivery.position, lambda: delivery.cancel.cancel(ErrorCode.SHUTTING_DOWN))
        context = JobContext(delivery.cancel, delivery.attempt)
        with (
            log_context(task_uuid=delivery.message.key, position=delivery.position, attempt=delivery.attempt),
            metrics.in_hand.track_inprogress(),
        ):
            try:
                end = self._work(delivery, context)
                if end is not None:
                    seconds = time.monotonic() - started
                    metrics.settled.labels(topic, end).inc()
                    metrics.job_seconds.labels(topic).observe(seconds)
                    log.info("job_settled", end=end, seconds=round(seconds, 3))
            finally:
                self.breaker.mend(delivery.position)
                self.stop.forget(delivery.position)
                _cleared(context)

    def _work(self, delivery: Delivery, context: JobContext) -> str | None:
        """How the delivery ended; None if it is not settled."""
        try:
            return self._end_of(delivery, context)
        except CancelledError:  # while its failure waited to be reported
            self._release(delivery, count_attempt=False)
            return None

    def _end_of(self, delivery: Delivery, context: JobContext) -> str | None:
        trail = RetryHeaders.of(delivery.message)
        if trail.topic not in self.sources and trail.topic != delivery.message.topic:
            passed_by = Outcome(end="passed_by")
            return passed_by.end if self._settle(delivery, passed_by) else None
        job: Job | None = None
        try:
            job = self.parse(delivery.message)
        except PermanentError as error:
            log.error("message_unparsable", error=error.message)
            outcome: Outcome | None = Outcome((self._dead_letter(delivery, error),), end="unparsable")
        else:
            outcome = self._outcome_of(job, delivery, trail, context)
        return None if outcome is None else self._settle_storable(job, delivery, outcome)

    def _outcome_of(self, job: Job, delivery: Delivery, trail: RetryHeaders, context: JobContext) -> Outcome | None:
        """Handle the job until its outcome is decided; None if it is not ours to decide."""
        deliveries = trail.crashes + delivery.attempt
        if self.policy.is_poison(deliveries):
            error = PoisonError("the job ended its worker too often", code=ErrorCode.WORKER_DIED)
            return self._quarantined(job, delivery, error)
        holds = 0
        while True:
            try:
                delivery.cancel.raise_if_set()
                outcome = self._handle(job, context)
                self.breaker.mend(delivery.position)
                return outcome
            except PipelineError as error:
                holds += 1
                decision = self.policy.decide(
                    error, attempts=trail.attempts + 1, holds=holds, deliveries=deliveries, rng=self.rng
                )
                _report_failure(error, decision)
                if decision.action is not Action.HOLD:
                    self.breaker.mend(delivery.position)
                    return self._after_failure(job, delivery, trail, error, decision)
                self._hold(delivery, context, error, decision.delay or 0.0)

    def _hold(self, delivery: Delivery, context: JobContext, error: PipelineError, delay: float) -> None:
        """Wait before the next try, with the circuit open."""
        self.breaker.trip(delivery.position, error)
        if error.code is ErrorCode.DISK_FULL:
            # What the job has on the disk may be what another one needs to end.
            _cleared(context)
        delivery.cancel.wait(delay)

    def _handle(self, job: Job, context: JobContext) -> Outcome:
        try:
            return self.worker.handle(job, context)
        except PipelineError:
            raise
        except Exception as error:  # the boundary: a defect costs this job, not the consumer
            log.exception("unexpected_error")
            raise PoisonError("the service met an unexpected error", code=ErrorCode.INTERNAL) from error

    def _after_failure(
        self, job: Job, delivery: Delivery, trail: RetryHeaders, error: PipelineError, decision: Decision
    ) -> Outcome | None:
        match decision.action:
            case Action.RETRY:
                return self._retried(delivery, trail, error, decision.delay or 0.0)
            case Action.QUARANTINE:
                return self._quarantined(job, delivery, error)
            case Action.GIVE_BACK:
                self._release(delivery, count_attempt=True)
                return None
            case Action.ABANDON:
                self._release(delivery, count_attempt=False)
                return None
            case _:
                return self._failed(job, delivery, error)

    def _retried(self, delivery: Delivery, trail: RetryHeaders, error: PipelineError, delay: float) -> Outcome:
        retry = retry_message(
            delivery.message,
            self.retry_topics[delay],
            delay,
            error,
            attempts=trail.attempts + 1,
            crashes=trail.crashes + delivery.attempt - 1,
        )
        return Outcome((retry,), end="retried")

    def _failed(self, job: Job, delivery: Delivery, error: PipelineError) -> Outcome:
        return self._reported(job, delivery, error) or Outcome((self._dead_letter(delivery, error),), end="dead_letter")

    def _quarantined(self, job: Job, delivery: Delivery, error: PipelineError) -> Outcome:
        log.error("job_quarantined", error=error.message, code=error.code)
        failed = self._reported(job, delivery, error) or Outcome()
        letter = self._dead_letter(delivery, error)
        return Outcome((*failed.outputs, letter), end="quarantined")

    def _reported(self, job: Job, delivery: Delivery, error: PipelineError) -> Outcome | None:
        """What the worker makes of the failure, however long our surroundings are away; None if it cannot tell.

        Raises CancelledError.
        """
        holds = 0
        while True:
            delivery.cancel.raise_if_set()
            try:
                outcome = self.worker.on_failure(job, error)
            except InfrastructureError as fault:
                holds += 1
                self._wait_out(delivery, fault, holds, "failure_not_reported")
            except Exception:  # the boundary: a job that cannot even fail must not come again for ever
                log.exception("failure_not_reported")
                return None
            else:
                self.breaker.mend(delivery.position)
                return outcome

    def _dead_letter(self, delivery: Delivery, error: PipelineError) -> Message:
        return dead_letter(self.dead_letter_topic, delivery.message, error)

    def _settle_storable(self, job: Job | None, delivery: Delivery, outcome: Outcome) -> str | None:
        """Settle the outcome or, if it is larger than the broker takes, a failure that is not."""
        try:
            return outcome.end if self._settle(delivery, outcome) else None
        except PermanentError as error:
            log.error("outcome_not_storable", error=error.message)
            failed = (self._reported(job, delivery, error) if job is not None else None) or Outcome()
            letter = shortened(self._dead_letter(delivery, error))
            smaller = Outcome((*failed.outputs, letter), end="not_storable")
            return smaller.end if self._settle(delivery, smaller) else None

    def _settle(self, delivery: Delivery, outcome: Outcome) -> bool:
        """Make the outcome durable, however long the broker is away; False if the job was lost meanwhile."""
        failures = 0
        while True:
            try:
                self.subscription.settle(delivery, *outcome.outputs)
                return True
            except CancelledError as error:
                metrics.lost.inc()
                log.warning("job_lost", error=error.message)
                return False
            except InfrastructureError as error:
                raise_if_refused(error)
                failures += 1
                if self._wait_out(delivery, error, failures, "settle_failed"):
                    # Nothing was acknowledged: the job comes again, and doing it twice changes nothing.
                    log.warning("job_unsettled", reason=delivery.cancel.reason)
                    return False

    def _wait_out(self, delivery: Delivery, fault: InfrastructureError, failures: int, event: str) -> bool:
        """Wait, with the circuit open, after so many failures in a row; whether the delivery was cancelled."""
        delay = self.policy.infrastructure.delay(failures, self.rng)
        log.warning(event, error=fault.message, retry_in_seconds=round(delay, 2))
        self.breaker.trip(delivery.position, fault)
        return delivery.cancel.wait(delay)

    def _release(self, delivery: Delivery, *, count_attempt: bool) -> None:
        if delivery.cancel.reason is ErrorCode.DELIVERY_LOST:
            metrics.lost.inc()
        try:
            self.subscription.release(delivery, count_attempt=count_attempt)
        except InfrastructureError as error:
            # The broker takes the job back by itself once it misses this member.
            log.warning("release_failed", error=error.message)


class _Outage:
    """Says that the broker is away, ever more rarely, and that it is back. Thread-safe."""

    def __init__(self, backoff: Backoff, rng: random.Random) -> None:
        self._backoff = backoff
        self._rng = rng
        self._lock = threading.Lock()
        self._told = 0
        self._silent_until = 0.0

    def seen(self, error: InfrastructureError) -> None:
        with self._lock:
            if time.monotonic() < self._silent_until:
                return
            self._told += 1
            self._silent_until = time.monotonic() + self._backoff.delay(self._told, self._rng)
        log.warning("broker_unavailable", error=error.message, code=error.code)

    def over(self) -> None:
        with self._lock:
            told, self._told, self._silent_until = self._told, 0, 0.0
        if told:
            log.info("broker_available")


def raise_if_refused(error: InfrastructureError) -> None:
    """Raise ``error`` if no waiting mends it: the broker does not let this service in."""
    if error.code is ErrorCode.BROKER_REFUSED:
        raise error


def _cleared(context: JobContext) -> None:
    try:
        context.clear()
    except Exception:  # the boundary: what is left lying about is swept up at the next start
        log.warning("tidy_up_failed", exc_info=True)


def _report_failure(error: PipelineError, decision: Decision) -> None:
    metrics.failures.labels(error.kind, error.code).inc()
    level = log.info if error.kind is ErrorKind.CANCELLED else log.warning
    wait = {} if decision.delay is None else {"retry_in_seconds": round(decision.delay, 2)}
    level(
        "job_attempt_failed",
        error=error.message,
        kind=error.kind,
        code=error.code,
        decision=decision.action.value,
        **wait,
    )
