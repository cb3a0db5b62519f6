"""The frame of every worker process: topics, health endpoints, the consumer loop, shutdown."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pipeline.backoff import Backoff
from pipeline.consuming.circuit_breaker import CircuitBreaker
from pipeline.consuming.consumer import Consumer, raise_if_refused
from pipeline.consuming.handler import JobHandler
from pipeline.consuming.retry import RetryPolicy
from pipeline.errors import InfrastructureError, PipelineError
from pipeline.messages import TaskMessage, from_message, unread_failure
from pipeline.service.health import Check, Detail, HealthServer
from pipeline.service.logs import get_logger
from pipeline.service.shutdown import StopSignal
from pipeline.topics import Topics
from pipeline.transport import Topic, Transport

log = get_logger(__name__)

Job = TypeVar("Job", bound=TaskMessage)


@dataclass(frozen=True, slots=True)
class HealthAddress:
    """The address of a worker's health endpoints; ``setting`` is the variable that names the port."""

    host: str
    port: int
    setting: str


@dataclass(frozen=True, slots=True)
class WorkerProcess(Generic[Job]):
    """One worker of one consumer group."""

    transport: Transport
    topics: Topics
    sources: Sequence[str]
    """Topics in which its new jobs arrive; it consumes the retry topics as well."""
    group: str
    job: type[Job]
    handler: JobHandler[Job]
    policy: RetryPolicy
    concurrency: int
    """Number of worker threads, and so of jobs in work at a time."""
    health: HealthAddress
    checks: Mapping[str, Check]
    """Of the components without which it could do no job: it joins the group when all of them are ready."""
    details: Mapping[str, Detail] = field(default_factory=dict)
    """Further values in the answers of /health and /ready."""
    prepare: Callable[[], object] | None = None
    """Runs before the first job is taken, while /ready already reports the components that are not ready."""
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)

    def run(self, stop: StopSignal) -> None:
        """Consume until ``stop``. A worker whose circuit stays open leaves the group, and rejoins once it is ready.

        Raises InfrastructureError if the health port is not available or the broker rejects this service, and any
        error of ``prepare``.
        """
        needed = {"broker": self.transport.check, **self.checks}
        checks = {**needed, "consumption": self.breaker.check}
        with HealthServer(self.health.host, self.health.port, self.health.setting, checks, self.details):
            if self.prepare is not None:
                self.prepare()
            if not ensure_topics(self.transport, self.topics.to_create(), self.policy.infrastructure, stop):
                return
            while not stop.is_set() and wait_until_ready(needed, self.policy.infrastructure, stop):
                self.breaker.rejoin()
                self._consume(stop)

    def _consume(self, stop: StopSignal) -> None:
        """Join the group and consume until ``stop`` or until the circuit breaker gives up."""
        subscribed = (*self.sources, *self.topics.retry_names)
        log.info("consuming", topics=subscribed, group=self.group, concurrency=self.concurrency)
        Consumer(
            subscription=self.transport.subscribe(subscribed, self.group, weights=self.topics.weights),
            parse=lambda message: from_message(self.job, message),
            handler=self.handler,
            policy=self.policy,
            sources=frozenset(self.sources),
            retry_topics={retry.delay: retry.name for retry in self.topics.retries},
            dead_letter_topic=self.topics.dead_letters,
            stop=stop,
            unread_failure=lambda message, error: unread_failure(self.topics.results, message, error),
            concurrency=self.concurrency,
            breaker=self.breaker,
        ).run()


def wait_until_ready(checks: Mapping[str, Check], backoff: Backoff, stop: StopSignal) -> bool:
    """Wait until each check passes; return False if ``stop`` is set first.

    Raises InfrastructureError (code ``broker_refused``) if the broker rejects this service.
    """
    return all(_repeat(check, backoff, stop, "not_ready", component=name) for name, check in checks.items())


def ensure_topics(transport: Transport, topics: Sequence[Topic], backoff: Backoff, stop: StopSignal) -> bool:
    """Create the topics as soon as the broker is reachable; return False if ``stop`` is set first.

    Raises InfrastructureError (code ``broker_refused``) if the broker rejects this service.
    """
    return _repeat(lambda: transport.ensure_topics(topics), backoff, stop, "topic_creation_failed")


def _repeat(step: Callable[[], None], backoff: Backoff, stop: StopSignal, event: str, **context: str) -> bool:
    """Call ``step`` until it raises no error; log ``event`` for each error. Return False if ``stop`` is set first."""
    rng = random.Random()  # noqa: S311  jitter of a delay
    failures = 0
    while not stop.is_set():
        try:
            step()
        except PipelineError as error:
            if isinstance(error, InfrastructureError):
                raise_if_refused(error)
            failures += 1
            delay = backoff.delay(failures, rng)
            log.warning(event, error=error.message, retry_in_seconds=round(delay, 2), **context)
            stop.wait(delay)
        else:
            return True
    return False
