"""The consumer loop: receive, handle, settle, retry, dead-letter, shut down.

    receive ──▶ parse ──▶ handle ──▶ outputs durable, offset advanced (settle)
                  │          │
                  │          ├─ permanent, or too many transient ─▶ the outcome of on_failure(…) is settled instead
                  │          ├─ transient       to a retry topic; spends one attempt
                  │          ├─ deferred        to the first retry topic; spends nothing
                  │          ├─ infrastructure  circuit open: wait, handle again; spends nothing, receives nothing new
                  │          ├─ poison          released and counted; after ``max_crashes``: dead letter + on_failure(…)
                  │          └─ cancelled       stop, publish nothing
                  ├─ needs a newer version ─▶ to a retry topic, for up to ``newer_patience``, then as unparsable
                  └─ unparsable ─▶ dead letter with the raw bytes, and a failed result if the envelope can be read

Several worker threads run this loop on one subscription, so that one job can be prepared while another is in work.
A process may die at any line: the delivery is then not settled, and the transport delivers the job again.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pipeline.backoff import Backoff
from pipeline.consuming.circuit_breaker import CircuitBreaker
from pipeline.consuming.handler import JobContext, JobHandler, JobRun, Outcome
from pipeline.consuming.retry import Action, Decision, RetryPolicy
from pipeline.consuming.retry_headers import RetryHeaders, dead_letter, retry_message, truncate_dead_letter
from pipeline.errors import (
    CancelledError,
    DeferredError,
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

#: Timeout of one ``receive``, s: an idle worker thread notices a shutdown within this time.
RECEIVE_TIMEOUT = 0.5
#: Pause after the broker was unreachable, s.
OUTAGE_PAUSE = 1.0

Job = TypeVar("Job")


@dataclass(frozen=True, slots=True)
class Consumer(Generic[Job]):
    """Handles the jobs of one subscription until the stop signal."""

    subscription: Subscription
    parse: Callable[[Message], Job]
    """Raises PermanentError for a message that is not a job, DeferredError for one that a newer version can read."""
    handler: JobHandler[Job]
    policy: RetryPolicy
    sources: frozenset[str]
    """Topics in which its new jobs arrive. Messages from other topics are skipped where they wait in a retry topic."""
    retry_topics: Mapping[float, str]
    """Maps each delay of the policy, s, to its topic."""
    dead_letter_topic: str
    stop: StopSignal
    unread_failure: Callable[[Message, PipelineError], Message | None] = lambda _message, _error: None
    """Returns the message that tells the client of a job that cannot be parsed, if it can be told."""
    concurrency: int = 1
    """Number of worker threads, and so of jobs in work at a time."""
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    rng: random.Random = field(default_factory=random.Random)

    def run(self) -> None:
        """Handle jobs until the stop signal or until the circuit breaker gives up, then leave the group.

        Jobs in work are finished or released; those that an infrastructure fault holds are released at once.
        Raises InfrastructureError (code ``broker_refused``) if the broker rejects this service for good.
        """
        outage = _OutageLog(self.policy.infrastructure, self.rng)
        errors: list[BaseException] = []

        def work() -> None:
            try:
                self._consume(outage)
            except BaseException as error:  # noqa: BLE001  raised again below
                errors.append(error)
                # A consumer with a dead worker thread would look healthy and take less and less work.
                self.stop.request("a worker thread has failed")

        self.stop.on_request(self.breaker.stop)
        threads = [threading.Thread(target=work, name=f"worker-{number}") for number in range(1, self.concurrency + 1)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            self.subscription.close()
        if errors:
            raise errors[0]

    def _consume(self, outage: _OutageLog) -> None:
        while not (self.stop.is_set() or self.breaker.gave_up):
            if not self.breaker.wait_closed(RECEIVE_TIMEOUT):
                continue
            try:
                delivery = self.subscription.receive(RECEIVE_TIMEOUT)
            except InfrastructureError as error:
                raise_if_refused(error)
                outage.report(error)
                self.stop.wait(OUTAGE_PAUSE)
                continue
            outage.end()
            if delivery is None:
                continue
            processing = _Processing(self, delivery)
            if self.breaker.wait_closed(0.0) and not self.stop.is_set():
                processing.run()
            else:  # the circuit opened, or the shutdown began, during ``receive``
                processing.release(count_attempt=False)


class _Processing(Generic[Job]):
    """The processing of one delivery, from parsing to settling or releasing it."""

    def __init__(self, consumer: Consumer[Job], delivery: Delivery) -> None:
        self._consumer = consumer
        self._breaker = consumer.breaker
        self._delivery = delivery
        self._cancel = delivery.cancel
        self._headers = RetryHeaders.from_message(delivery.message)
        self._deliveries = self._headers.crashes + delivery.attempt
        self._job: Job | None = None
        """None until the message is parsed."""
        self._run: JobRun | None = None

    def run(self) -> None:
        delivery, stop, started = self._delivery, self._consumer.stop, time.monotonic()
        topic, position = delivery.message.topic, delivery.position
        metrics.deliveries.labels(topic, str(delivery.attempt > 1).lower()).inc()
        stop.on_deadline(position, lambda: delivery.cancel.cancel(ErrorCode.SHUTTING_DOWN))
        with (
            log_context(
                task_uuid=delivery.message.key,
                position=position,
                attempt=self._headers.attempts + 1,
                crashes=self._deliveries - 1,
            ),
            metrics.in_hand.track_inprogress(),
        ):
            try:
                outcome = self._decide()
                end = None if outcome is None else self._settle(outcome)
                if end is not None:
                    seconds = time.monotonic() - started
                    metrics.settled.labels(topic, end).inc()
                    metrics.job_seconds.labels(topic).observe(seconds)
                    log.info("job_settled", end=end, seconds=round(seconds, 3))
            except CancelledError:  # while its failure waited to be reported
                self.release(count_attempt=False)
            finally:
                self._breaker.close(position)
                stop.discard_on_deadline(position)
                self._close_run()

    def release(self, *, count_attempt: bool) -> None:
        """Return the delivery to the transport, which delivers the job again."""
        if self._cancel.reason is ErrorCode.DELIVERY_LOST:
            metrics.lost.inc()
        try:
            self._consumer.subscription.release(self._delivery, count_attempt=count_attempt)
        except InfrastructureError as error:
            # The broker reassigns the job by itself once this member misses its heartbeats.
            log.warning("release_failed", error=error.message)

    def _decide(self) -> Outcome | None:
        """Return the outcome of the delivery, or None if it was released without one."""
        message, consumer = self._delivery.message, self._consumer
        if self._headers.topic not in consumer.sources and self._headers.topic != message.topic:
            return Outcome(end="skipped")  # a retry of another service
        try:
            self._job = job = consumer.parse(message)
        except (PermanentError, DeferredError) as error:
            return self._after_parsing(error)
        if consumer.policy.is_poison(self._deliveries):
            return self._quarantine(PoisonError("the job ended its worker too often", code=ErrorCode.WORKER_DIED))
        return self._handle(job)

    def _after_parsing(self, error: PipelineError) -> Outcome:
        """Return the outcome of a message that this version cannot read."""
        if isinstance(error, DeferredError):
            since, now = self._headers.unread_since, time.time()
            delay = self._consumer.policy.newer_delay(0.0 if since is None else now - since)
            if delay is not None:
                log.warning("message_deferred", error=error.message, code=error.code, retry_in_seconds=delay)
                return self._to_retry_topic(error, delay, attempts=self._headers.attempts, end="deferred")
        log.error("message_unparsable", error=error.message, code=error.code)
        failed = self._report(error) or Outcome()
        return Outcome((*failed.outputs, self._dead_letter(error)), end="unparsable")

    def _to_retry_topic(self, error: PipelineError, delay: float, *, attempts: int, end: str) -> Outcome:
        topic, message = self._consumer.retry_topics[delay], self._delivery.message
        return Outcome(
            (retry_message(message, topic, delay, error, attempts=attempts, crashes=self._deliveries - 1),), end
        )

    def _handle(self, job: Job) -> Outcome | None:
        """Try the job until its outcome is decided; return None if it was released without one."""
        holds = 0
        while True:
            try:
                self._cancel.raise_if_set()
                outcome = self._try(job)
                self._breaker.close(self._delivery.position)
                return outcome
            except PipelineError as error:
                holds += 1
                decision = self._consumer.policy.decide(
                    error,
                    attempts=self._headers.attempts + 1,
                    holds=holds,
                    deliveries=self._deliveries,
                    rng=self._consumer.rng,
                )
                _log_failed_attempt(error, decision)
                if decision.action is not Action.HOLD:
                    self._breaker.close(self._delivery.position)
                    return self._after_failure(error, decision)
                self._breaker.open(self._delivery.position, error, self._give_back)
                if error.code in _BEGIN_AGAIN:
                    self._close_run()
                self._cancel.wait(decision.delay or 0.0)

    def _try(self, job: Job) -> Outcome:
        try:
            if self._run is None:
                self._run = self._consumer.handler.begin(job, JobContext(self._cancel, self._delivery.attempt))
            return self._run.handle()
        except PipelineError:
            raise
        except Exception as error:  # the boundary: a defect costs this job, not the consumer
            log.exception("unexpected_error")
            raise PoisonError("the service met an unexpected error", code=ErrorCode.INTERNAL) from error

    def _close_run(self) -> None:
        run, self._run = self._run, None
        try:
            if run is not None:
                run.close()
        except Exception:  # the boundary: the next start of the service removes the remaining files
            log.warning("cleanup_failed", exc_info=True)

    def _after_failure(self, error: PipelineError, decision: Decision) -> Outcome | None:
        match decision.action:
            case Action.RETRY:
                attempts = self._headers.attempts + 1
                return self._to_retry_topic(error, decision.delay or 0.0, attempts=attempts, end="retried")
            case Action.DEFER:
                attempts = self._headers.attempts
                return self._to_retry_topic(error, decision.delay or 0.0, attempts=attempts, end="deferred")
            case Action.QUARANTINE:
                return self._quarantine(error)
            case Action.REQUEUE | Action.ABANDON:
                self.release(count_attempt=decision.action is Action.REQUEUE)
                return None
            case _:
                return self._report(error) or Outcome((self._dead_letter(error),), end="dead_letter")

    def _quarantine(self, error: PipelineError) -> Outcome:
        log.error("job_quarantined", error=error.message, code=error.code)
        failed = self._report(error) or Outcome()
        return Outcome((*failed.outputs, self._dead_letter(error)), end="quarantined")

    def _report(self, error: PipelineError) -> Outcome | None:
        """Return the outcome that reports to the client, after any infrastructure fault, or None if there is none.

        Raises CancelledError.
        """
        if self._job is None:
            failed = self._consumer.unread_failure(self._delivery.message, error)
            return Outcome((failed,)) if failed else None
        failures = 0
        while True:
            self._cancel.raise_if_set()
            try:
                outcome = self._consumer.handler.on_failure(self._job, error)
            except InfrastructureError as fault:
                failures += 1
                self._back_off(fault, failures, "failure_not_reported")
            except Exception:  # the boundary: a job that cannot even fail must not be redelivered for ever
                log.exception("failure_not_reported")
                return None
            else:
                self._breaker.close(self._delivery.position)
                return outcome

    def _dead_letter(self, error: PipelineError) -> Message:
        return dead_letter(self._consumer.dead_letter_topic, self._delivery.message, error)

    def _settle(self, outcome: Outcome) -> str | None:
        """Settle the outcome or, if the broker does not take messages of that size, a shortened failure.

        Returns the ``end`` of the settled outcome, or None if the delivery was lost.
        """
        try:
            return outcome.end if self._make_durable(outcome) else None
        except PermanentError as error:
            log.error("outcome_not_storable", error=error.message)
            failed = self._report(error) or Outcome()
            outputs = (*failed.outputs, truncate_dead_letter(self._dead_letter(error)))
            return "not_storable" if self._make_durable(Outcome(outputs)) else None

    def _make_durable(self, outcome: Outcome) -> bool:
        """Settle the outcome, after any outage of the broker; return False if the delivery was lost meanwhile."""
        failures = 0
        while True:
            try:
                self._consumer.subscription.settle(self._delivery, *outcome.outputs)
                return True
            except CancelledError as error:
                metrics.lost.inc()
                log.warning("job_lost", error=error.message)
                return False
            except InfrastructureError as error:
                raise_if_refused(error)
                failures += 1
                if self._back_off(error, failures, "settle_failed"):
                    # Nothing was acknowledged: the job is delivered again, and a repeat changes nothing.
                    log.warning("job_unsettled", reason=self._cancel.reason)
                    return False

    def _give_back(self) -> None:
        self._cancel.cancel(ErrorCode.SHUTTING_DOWN)

    def _back_off(self, fault: InfrastructureError, failures: int, event: str) -> bool:
        """Wait, with the circuit open, after ``failures`` in a row; return whether the delivery was cancelled."""
        delay = self._consumer.policy.infrastructure.delay(failures, self._consumer.rng)
        log.warning(event, error=fault.message, retry_in_seconds=round(delay, 2))
        self._breaker.open(self._delivery.position, fault, self._give_back)
        return self._cancel.wait(delay)


#: Faults after which the run begins again: another job may need its disk space to finish, or its files are gone.
_BEGIN_AGAIN = frozenset({ErrorCode.DISK_FULL, ErrorCode.WORK_FILES_LOST})


class _OutageLog:
    """Logs that the broker is unreachable, at growing intervals, and that it is back. Thread-safe."""

    def __init__(self, backoff: Backoff, rng: random.Random) -> None:
        self._backoff = backoff
        self._rng = rng
        self._lock = threading.Lock()
        self._logged = 0
        self._silent_until = 0.0

    def report(self, error: InfrastructureError) -> None:
        with self._lock:
            if time.monotonic() < self._silent_until:
                return
            self._logged += 1
            self._silent_until = time.monotonic() + self._backoff.delay(self._logged, self._rng)
        log.warning("broker_unavailable", error=error.message, code=error.code)

    def end(self) -> None:
        with self._lock:
            logged, self._logged, self._silent_until = self._logged, 0, 0.0
        if logged:
            log.info("broker_available")


def raise_if_refused(error: InfrastructureError) -> None:
    """Raise ``error`` if the broker rejects this service, which no retry can change."""
    if error.code is ErrorCode.BROKER_REFUSED:
        raise error


def _log_failed_attempt(error: PipelineError, decision: Decision) -> None:
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
