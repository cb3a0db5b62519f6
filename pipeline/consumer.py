"""The one consumer loop: receive, work, settle, retry, dead-letter, stop.

    receive ──▶ parse ──▶ handle ──▶ outputs durable, offset advanced (settle) ──▶ after_settled
                  │          │
                  │          ├─ permanent, or transient once too often ─▶ on_failure(…) is settled instead
                  │          ├─ transient       wait, handle again, one attempt spent
                  │          ├─ infrastructure  wait, handle again, nothing spent
                  │          ├─ poison          give back, counted; after ``max_crashes``: dead letter + on_failure(…)
                  │          └─ cancelled       stop, publish nothing
                  └─ unparsable ─▶ dead letter with the raw bytes

If the power goes at any line, the delivery has not been settled and comes again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from pipeline.cancel import CancelToken
from pipeline.errors import (
    CancelledError,
    ErrorCode,
    ErrorKind,
    InfrastructureError,
    PermanentError,
    PipelineError,
    PoisonError,
)
from pipeline.lifecycle import StopSignal
from pipeline.retry import Action, Backoff, Decision, RetryPolicy
from pipeline.telemetry import get_logger, log_context
from pipeline.transport.protocol import Delivery, Message, Subscription

log = get_logger(__name__)

#: How long one ``receive`` waits, s: the longest that an idle consumer takes to see a stop.
RECEIVE_TIMEOUT = 0.5
#: Pause after the broker could not be reached, s.
OUTAGE_PAUSE = 1.0

#: What is kept of the key (characters) and the value (bytes) of a dead letter that is too large as it is.
KEPT_KEY, KEPT_VALUE = 256, 100_000

_OWN_HEADERS = ("original-topic", "error-kind", "error-code", "error-message", "failed-at")

Job = TypeVar("Job")
JobIn = TypeVar("JobIn", contravariant=True)


@dataclass(frozen=True, slots=True)
class JobContext:
    """What a handler knows of the delivery that it works on."""

    cancel: CancelToken
    attempt: int
    """1 for the first delivery, +1 for each worker that the job has taken down."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a job: messages to make durable, and what may be tidied up only after that."""

    outputs: Sequence[Message] = ()
    after_settled: Callable[[], None] | None = None


class Worker(Protocol[JobIn]):
    """What a service does with its jobs."""

    def handle(self, job: JobIn, context: JobContext) -> Outcome:
        """Do the work. Raises PipelineErrors; must be safe to repeat."""

    def on_failure(self, job: JobIn, error: PipelineError) -> Outcome:
        """The outcome of a job that has failed for good."""


@dataclass(frozen=True, slots=True)
class Consumer(Generic[Job]):
    """Runs jobs of one subscription, one at a time, until it is told to stop."""

    subscription: Subscription
    parse: Callable[[Message], Job]
    """Raises PermanentError for a message that is not a job."""
    worker: Worker[Job]
    policy: RetryPolicy
    dead_letter_topic: str
    stop: StopSignal
    rng: random.Random = field(default_factory=random.Random)

    def run(self) -> None:
        """Work until the stop signal, then leave the group. A job in hand is finished or given back."""
        outage = _Outage(self.policy.infrastructure, self.rng)
        try:
            while not self.stop.is_set():
                try:
                    delivery = self.subscription.receive(RECEIVE_TIMEOUT)
                except InfrastructureError as error:
                    outage.seen(error)
                    self.stop.wait(OUTAGE_PAUSE)
                    continue
                outage.over()
                if delivery is not None:
                    self._process(delivery)
        finally:
            self.subscription.close()

    def _process(self, delivery: Delivery) -> None:
        key = delivery.message.key
        self.stop.on_deadline(delivery.position, lambda: delivery.cancel.cancel(ErrorCode.SHUTTING_DOWN))
        try:
            with log_context(task_uuid=key, position=delivery.position, attempt=delivery.attempt):
                self._work(delivery)
        finally:
            self.stop.forget(delivery.position)

    def _work(self, delivery: Delivery) -> None:
        started = time.monotonic()
        job: Job | None = None
        try:
            job = self.parse(delivery.message)
        except PermanentError as error:
            log.error("message_unparsable", error=error.message)
            outcome: Outcome | None = Outcome((self._dead_letter(delivery, error),))
        else:
            outcome = self._outcome_of(job, delivery)
        if outcome is not None and self._settle_storable(job, delivery, outcome):
            log.info("job_settled", seconds=round(time.monotonic() - started, 3))

    def _outcome_of(self, job: Job, delivery: Delivery) -> Outcome | None:
        """Handle the job until its outcome is decided; None if it is not ours to decide."""
        if self.policy.is_poison(delivery.attempt):
            error = PoisonError("the job ended its worker too often", code=ErrorCode.WORKER_DIED)
            return self._quarantined(job, delivery, error)
        failures = dict.fromkeys(ErrorKind, 0)
        context = JobContext(delivery.cancel, delivery.attempt)
        while True:
            try:
                delivery.cancel.raise_if_set()
                return self._handle(job, context)
            except PipelineError as error:
                failures[error.kind] += 1
                decision = self.policy.decide(
                    error, failures=failures[error.kind], deliveries=delivery.attempt, rng=self.rng
                )
                _log_decision(error, decision)
                if decision.action not in (Action.RETRY, Action.HOLD):
                    return self._after_failure(job, delivery, error, decision)
                delivery.cancel.wait(decision.delay)

    def _handle(self, job: Job, context: JobContext) -> Outcome:
        try:
            return self.worker.handle(job, context)
        except PipelineError:
            raise
        except Exception as error:  # the boundary: a defect costs this job, not the consumer
            log.exception("unexpected_error")
            raise PoisonError("the service met an unexpected error", code=ErrorCode.INTERNAL) from error

    def _after_failure(self, job: Job, delivery: Delivery, error: PipelineError, decision: Decision) -> Outcome | None:
        match decision.action:
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

    def _failed(self, job: Job, delivery: Delivery, error: PipelineError) -> Outcome:
        return self._reported(job, error) or Outcome((self._dead_letter(delivery, error),))

    def _quarantined(self, job: Job, delivery: Delivery, error: PipelineError) -> Outcome:
        log.error("job_quarantined", error=error.message, code=error.code)
        failed = self._reported(job, error) or Outcome()
        return Outcome((*failed.outputs, self._dead_letter(delivery, error)), failed.after_settled)

    def _reported(self, job: Job, error: PipelineError) -> Outcome | None:
        try:
            return self.worker.on_failure(job, error)
        except Exception:  # the boundary: a job that cannot even fail must not come again for ever
            log.exception("failure_not_reported")
            return None

    def _dead_letter(self, delivery: Delivery, error: PipelineError) -> Message:
        return dead_letter(self.dead_letter_topic, delivery.message, error)

    def _settle_storable(self, job: Job | None, delivery: Delivery, outcome: Outcome) -> bool:
        """Settle the outcome or, if it is larger than the broker takes, a failure that is not."""
        try:
            return self._settle(delivery, outcome)
        except PermanentError as error:
            log.error("outcome_not_storable", error=error.message)
            failed = (self._reported(job, error) if job is not None else None) or Outcome()
            letter = shortened(self._dead_letter(delivery, error))
            return self._settle(delivery, Outcome((*failed.outputs, letter), outcome.after_settled))

    def _settle(self, delivery: Delivery, outcome: Outcome) -> bool:
        """Make the outcome durable, however long the broker is away; False if the job was lost meanwhile."""
        failures = 0
        while True:
            try:
                self.subscription.settle(delivery, *outcome.outputs)
                break
            except CancelledError as error:
                log.warning("job_lost", error=error.message)
                return False
            except InfrastructureError as error:
                failures += 1
                delay = self.policy.infrastructure.delay(failures, self.rng)
                log.warning("settle_failed", error=error.message, retry_in_seconds=round(delay, 2))
                if delivery.cancel.wait(delay):
                    # Nothing was acknowledged: the job comes again, and doing it twice changes nothing.
                    log.warning("job_unsettled", reason=delivery.cancel.reason)
                    return False
        self._tidy_up(outcome)
        return True

    def _tidy_up(self, outcome: Outcome) -> None:
        if outcome.after_settled is None:
            return
        try:
            outcome.after_settled()
        except Exception:  # the boundary: the job is done, whatever is left lying about
            log.warning("tidy_up_failed", exc_info=True)

    def _release(self, delivery: Delivery, *, count_attempt: bool) -> None:
        try:
            self.subscription.release(delivery, count_attempt=count_attempt)
        except InfrastructureError as error:
            # The broker takes the job back by itself once it misses this member.
            log.warning("release_failed", error=error.message)


class _Outage:
    """Says that the broker is away, ever more rarely, and that it is back."""

    def __init__(self, backoff: Backoff, rng: random.Random) -> None:
        self._backoff = backoff
        self._rng = rng
        self._told = 0
        self._silent_until = 0.0

    def seen(self, error: InfrastructureError) -> None:
        if time.monotonic() < self._silent_until:
            return
        self._told += 1
        self._silent_until = time.monotonic() + self._backoff.delay(self._told, self._rng)
        log.warning("broker_unavailable", error=error.message, code=error.code)

    def over(self) -> None:
        if self._told:
            log.info("broker_available")
        self._told, self._silent_until = 0, 0.0


def dead_letter(topic: str, message: Message, error: PipelineError) -> Message:
    """``message`` with its raw bytes, on its way to the dead letters; headers say where it came from and why."""
    facts = (message.topic, error.kind, error.code, error.message, f"{time.time():.3f}")
    own = {name: fact.encode() for name, fact in zip(_OWN_HEADERS, facts, strict=True)}
    return Message(topic, message.key, message.value, {**message.headers, **own})


def shortened(letter: Message) -> Message:
    """As much of a dead letter as every engine takes; a header says how long its value was."""
    headers = {name: letter.headers[name] for name in _OWN_HEADERS}
    headers["original-bytes"] = str(len(letter.value)).encode()
    return Message(letter.topic, letter.key[:KEPT_KEY], letter.value[:KEPT_VALUE], headers)


def _log_decision(error: PipelineError, decision: Decision) -> None:
    level = log.info if error.kind is ErrorKind.CANCELLED else log.warning
    level(
        "job_attempt_failed",
        error=error.message,
        kind=error.kind,
        code=error.code,
        decision=decision.action.value,
        retry_in_seconds=round(decision.delay, 2),
    )
