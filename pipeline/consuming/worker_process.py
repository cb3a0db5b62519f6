"""The frame of every worker process: topics, health endpoints, the consumer loop, shutdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pipeline.consuming.circuit_breaker import CircuitBreaker
from pipeline.consuming.consumer import Consumer
from pipeline.consuming.handler import JobHandler
from pipeline.consuming.retry import RetryPolicy
from pipeline.errors import CancelledError
from pipeline.messages import TaskMessage, from_message, unread_failure
from pipeline.service.health import Check, Detail, HealthServer
from pipeline.service.logs import get_logger
from pipeline.service.shutdown import StopSignal
from pipeline.service.waiting import ComponentWait
from pipeline.topics import Topics
from pipeline.transport import Transport

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
    own_checks: Mapping[str, Check] = field(default_factory=dict)
    """Of what ``prepare`` provides; the worker needs it as well when it rejoins."""
    addresses: Mapping[str, str] = field(default_factory=dict)
    """Of the components, for the log."""
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
        checks = {**needed, **self.own_checks, "consumption": self.breaker.check}
        with HealthServer(self.health.host, self.health.port, self.health.setting, checks, self.details):
            create = {"broker": lambda: self.transport.ensure_topics(self.topics.used_by_worker(self.sources))}
            ready = self._wait({**needed, **create}, stop, self.prepare)
            while ready:
                self.breaker.rejoin()
                self._consume(stop)
                ready = self._wait({**needed, **self.own_checks}, stop)

    def _wait(self, checks: Mapping[str, Check], stop: StopSignal, prepare: Callable[[], object] | None = None) -> bool:
        """Wait until each check passes, while ``prepare`` runs; return False if ``stop`` is set first."""
        with ComponentWait(checks, self.policy.infrastructure, stop, self.addresses) as components:
            try:
                if prepare is not None:
                    prepare()
            except CancelledError:
                components.raise_if_failed()  # It has begun the shutdown, and so has cancelled ``prepare``.
                raise
            return components.wait() and not stop.is_set()

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
