"""The topics: their names, their contents, and the weights by which workers share their time among them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.messages import DEFAULT_PRIORITY, PRIORITIES
from pipeline.transport.protocol import Message, Right, Topic

if TYPE_CHECKING:
    from config import Settings

HOUR, DAY = 3_600.0, 86_400.0

#: The shares of a processor's time among the job topics while all of them have jobs: each priority has twice the share
#: of the one below it. ``bulk``, with the jobs of clients that send very many at once, has the share of the lowest.
_PRIORITY_WEIGHTS = {priority: 2 ** (priority - min(PRIORITIES)) for priority in PRIORITIES}
_BULK_WEIGHT = 1
#: Retries have the default priority, whatever theirs was: they have waited already.
_RETRY_WEIGHT = _PRIORITY_WEIGHTS[DEFAULT_PRIORITY]


@dataclass(frozen=True, slots=True)
class RetryTopic:
    """A topic of messages that all have the same delay before their next try, so that they become due in order."""

    name: str
    delay: float
    """s"""


@dataclass(frozen=True, slots=True)
class Topics:
    """Every topic of the service."""

    tasks: Mapping[int, str]
    """By priority."""
    bulk: str
    results: str
    events: str
    retries: tuple[RetryTopic, ...]
    dead_letters: str
    pulse: str
    """Receives the messages of health checks: a successful write shows that the broker and its replicas work."""
    retention: float
    """Retention of jobs and results, s."""

    @classmethod
    def from_settings(cls, settings: Settings) -> Topics:
        kafka = settings.kafka
        names = {priority: f"{kafka.task_topic}_p{priority}" for priority in PRIORITIES}
        return cls(
            tasks=names | {DEFAULT_PRIORITY: kafka.task_topic},
            bulk=f"{kafka.task_topic}_bulk",
            results=kafka.result_topic,
            events=kafka.event_topic,
            retries=tuple(
                RetryTopic(f"{kafka.retry_topic_prefix}{_format_delay(delay)}", delay)
                for delay in settings.worker.retry_delays
            ),
            dead_letters=kafka.dead_letter_topic,
            pulse=f"{kafka.task_topic}_pulse",
            retention=settings.state.retention_seconds,
        )

    @property
    def jobs(self) -> tuple[str, ...]:
        """Return the topics in which new jobs arrive."""
        return (*self.tasks.values(), self.bulk)

    @property
    def weights(self) -> dict[str, int]:
        """Return the weights by which a worker shares its time among its topics."""
        return (
            {self.tasks[priority]: weight for priority, weight in _PRIORITY_WEIGHTS.items()}
            | {self.bulk: _BULK_WEIGHT}
            | dict.fromkeys((self.results, *self.retry_names), _RETRY_WEIGHT)
        )

    @property
    def retry_names(self) -> tuple[str, ...]:
        """Return the names of the retry topics."""
        return tuple(retry.name for retry in self.retries)

    @property
    def probe(self) -> Message:
        """Return the message without a meaning that precedes each job."""
        return Message(self.pulse, "pulse", b"")

    def used_by_api(self) -> Sequence[Topic]:
        """Return the topics of the API, with the rights that it needs."""
        return self._with_rights(reads=(), writes=(*self.jobs, self.events, self.pulse))

    def used_by_worker(self, sources: Sequence[str]) -> Sequence[Topic]:
        """Return the topics of a worker, with the rights that it needs. ``sources``: the topics with its new jobs.

        A worker also writes to the topics that it reads: it publishes a message again whose log has vanished. The
        uploader has jobs repeated whose stems are damaged.
        """
        reads = (*sources, *self.retry_names)
        writes = (*reads, self.tasks[DEFAULT_PRIORITY], self.results, self.events, self.dead_letters)
        return self._with_rights(reads, writes)

    def used_by_dead_letters(self) -> Sequence[Topic]:
        """Return the topics of ``pipeline.dead_letters``, with the rights that it needs."""
        return self._with_rights([self.dead_letters], (*self.jobs, self.results, self.dead_letters))

    def _with_rights(self, reads: Collection[str], writes: Collection[str]) -> Sequence[Topic]:
        topics = []
        for topic in self.to_create():
            held = {Right.READ: topic.name in reads, Right.WRITE: topic.name in writes}
            if any(held.values()):
                topics.append(replace(topic, rights=frozenset(right for right, granted in held.items() if granted)))
        return tuple(topics)

    def to_create(self) -> Sequence[Topic]:
        """Return all topics with their options for creation."""
        kept = (*self.jobs, self.results, *self.retry_names)
        return (
            *(Topic(name, self.retention) for name in kept),
            Topic(self.events, DAY, reports=True),
            Topic(self.pulse, HOUR, reports=True),
            Topic(self.dead_letters, None),
        )


def _format_delay(seconds: float) -> str:
    """Format a delay in the largest unit that gives a whole number: ``10s``, ``1m``, ``2h``, ``250ms``."""
    milliseconds = round(seconds * 1000)
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"
