"""What every worker process does around its work: topics, health, the consumer loop, the stop."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from config import Settings
from pipeline.backoff import Backoff
from pipeline.consuming.circuit_breaker import CircuitBreaker
from pipeline.consuming.consumer import Consumer, JobHandler, raise_if_refused
from pipeline.consuming.retry import RetryPolicy
from pipeline.errors import InfrastructureError
from pipeline.messages import TaskMessage, from_message
from pipeline.service.health import Check, Detail, HealthServer
from pipeline.service.logs import get_logger
from pipeline.service.shutdown import StopSignal
from pipeline.topics import Topics
from pipeline.transport import Message, Topic, Transport

log = get_logger(__name__)

Job = TypeVar("Job", bound=TaskMessage)


@dataclass(frozen=True, slots=True)
class HealthAddress:
    """Where a worker's health is asked; ``setting`` is the variable that names the port."""

    host: str
    port: int
    setting: str


@dataclass(frozen=True, slots=True)
class WorkerProcess(Generic[Job]):
    """One worker of one consumer group."""

    settings: Settings
    transport: Transport
    topics: Topics
    sources: Sequence[str]
    """Where its jobs come in first; it takes from the retry topics as well."""
    group: str
    job: type[Job]
    worker: JobHandler[Job]
    policy: RetryPolicy
    concurrency: int
    """How many jobs may be in hand."""
    health: HealthAddress
    checks: Mapping[str, Check]
    details: Mapping[str, Detail] = field(default_factory=dict)
    """Shown by /health and /ready beside their own."""
    prepare: Callable[[], object] | None = None
    """Done before the first job is taken, while /ready already says what is being waited for."""
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)

    def run(self, stop: StopSignal) -> None:
        """Work until ``stop``.

        Raises InfrastructureError if the health port cannot be had or the broker refuses this service, and what
        ``prepare`` raises.
        """
        checks = {"broker": self.transport.check, "consumption": self.breaker.check, **self.checks}
        with HealthServer(self.health.host, self.health.port, self.health.setting, checks, self.details):
            if self.prepare is not None:
                self.prepare()
            if ensure_topics(self.transport, self.topics.to_create(), self.policy.infrastructure, stop):
                self._consume(stop)

    def _consume(self, stop: StopSignal) -> None:
        subscribed = (*self.sources, *self.topics.retry_names)
        log.info("consuming", topics=subscribed, group=self.group, concurrency=self.concurrency)
        Consumer(
            subscription=self.transport.subscribe(subscribed, self.group, weights=self.topics.weights),
            parse=self._parse,
            worker=self.worker,
            policy=self.policy,
            sources=frozenset(self.sources),
            retry_topics={retry.delay: retry.name for retry in self.topics.retries},
            dead_letter_topic=self.topics.dead_letters,
            stop=stop,
            lanes=self.concurrency,
            breaker=self.breaker,
        ).run()

    def _parse(self, message: Message) -> Job:
        return from_message(self.job, message)


def ensure_topics(transport: Transport, topics: Sequence[Topic], backoff: Backoff, stop: StopSignal) -> bool:
    """Create the topics as soon as the broker can be reached; False if ``stop`` came first.

    Raises InfrastructureError (code ``broker_refused``) if the broker refuses this service.
    """
    rng = random.Random()
    failures = 0
    while not stop.is_set():
        try:
            transport.ensure_topics(topics)
        except InfrastructureError as error:
            raise_if_refused(error)
            failures += 1
            delay = backoff.delay(failures, rng)
            log.warning("topics_not_ensured", error=error.message, retry_in_seconds=round(delay, 2))
            stop.wait(delay)
        else:
            return True
    return False
