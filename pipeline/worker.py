"""What every worker process does around its work: topics, health, the consumer loop, the stop."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from config import Settings, WorkerSettings
from pipeline.consumer import Consumer, Worker
from pipeline.errors import InfrastructureError
from pipeline.health import Check, HealthServer
from pipeline.lifecycle import StopSignal
from pipeline.messages import TaskMessage, from_message
from pipeline.retry import Backoff, RetryPolicy
from pipeline.telemetry import get_logger
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
    topic: str
    group: str
    job: type[Job]
    worker: Worker[Job]
    policy: RetryPolicy
    health: HealthAddress
    checks: Mapping[str, Check]

    def run(self, topics: tuple[Topic, ...], stop: StopSignal) -> None:
        """Work until ``stop``. Raises InfrastructureError if the health port cannot be had."""
        checks = {"broker": self.transport.check, **self.checks}
        with HealthServer(self.health.host, self.health.port, self.health.setting, checks):
            if not ensure_topics(self.transport, topics, self.policy.infrastructure, stop):
                return
            log.info("consuming", topic=self.topic, group=self.group)
            Consumer(
                subscription=self.transport.subscribe([self.topic], self.group),
                parse=self._parse,
                worker=self.worker,
                policy=self.policy,
                dead_letter_topic=self.settings.kafka.dead_letter_topic,
                stop=stop,
            ).run()

    def _parse(self, message: Message) -> Job:
        return from_message(self.job, message)


def ensure_topics(transport: Transport, topics: tuple[Topic, ...], backoff: Backoff, stop: StopSignal) -> bool:
    """Create the topics as soon as the broker can be reached; False if ``stop`` came first."""
    rng = random.Random()
    failures = 0
    while not stop.is_set():
        try:
            transport.ensure_topics(topics)
        except InfrastructureError as error:
            failures += 1
            delay = backoff.delay(failures, rng)
            log.warning("topics_not_ensured", error=error.message, retry_in_seconds=round(delay, 2))
            stop.wait(delay)
        else:
            return True
    return False


def job_policy(settings: WorkerSettings) -> RetryPolicy:
    """How jobs are tried again."""
    return RetryPolicy(
        max_attempts=settings.max_attempts,
        max_crashes=settings.max_crashes,
        transient=Backoff(settings.retry_base, settings.retry_cap),
    )
