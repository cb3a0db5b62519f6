"""The one place that names topics: which there are, what travels in them, how they share a worker's time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.messages import DEFAULT_PRIORITY, PRIORITIES
from pipeline.transport.protocol import Topic

if TYPE_CHECKING:
    from config import Settings

HOUR, DAY = 3_600.0, 86_400.0

#: How the topics of jobs share a processor's time when all of them have jobs: each priority has twice the share of the
#: one below it. Jobs of clients that ask for very much at once, in ``bulk``, share like the lowest.
_PRIORITY_WEIGHTS = {priority: 2 ** (priority - min(PRIORITIES)) for priority in PRIORITIES}
_BULK_WEIGHT = 1
#: A job that is tried again has waited already.
_RETRY_WEIGHT = _PRIORITY_WEIGHTS[DEFAULT_PRIORITY]


@dataclass(frozen=True, slots=True)
class RetryTopic:
    """A topic of messages that are tried again after one and the same delay, so that they come due in their order."""

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
    """What is written here means nothing: that it is taken shows that the broker and its replicas answer."""
    retention: float
    """How long jobs and results are kept, s."""

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
                RetryTopic(f"{kafka.retry_topic_prefix}{_short(delay)}", delay)
                for delay in settings.worker.retry_delays
            ),
            dead_letters=kafka.dead_letter_topic,
            pulse=f"{kafka.task_topic}_pulse",
            retention=settings.state.retention_seconds,
        )

    @property
    def jobs(self) -> tuple[str, ...]:
        """Where new jobs come in."""
        return (*self.tasks.values(), self.bulk)

    @property
    def weights(self) -> dict[str, int]:
        """How topics share the time of a worker that takes from several."""
        return (
            {self.tasks[priority]: weight for priority, weight in _PRIORITY_WEIGHTS.items()}
            | {self.bulk: _BULK_WEIGHT}
            | dict.fromkeys((self.results, *self.retry_names), _RETRY_WEIGHT)
        )

    @property
    def retry_names(self) -> tuple[str, ...]:
        """The retry topics."""
        return tuple(retry.name for retry in self.retries)

    def to_create(self) -> Sequence[Topic]:
        """All of them, as they are created."""
        kept = (*self.jobs, self.results, *self.retry_names)
        return (
            *(Topic(name, self.retention) for name in kept),
            Topic(self.events, DAY, reports=True),
            Topic(self.pulse, HOUR, reports=True),
            Topic(self.dead_letters, None),
        )


def _short(seconds: float) -> str:
    """``10s``, ``1m``, ``2h``, ``250ms``: the delay in the largest unit that gives a whole number."""
    milliseconds = round(seconds * 1000)
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"
