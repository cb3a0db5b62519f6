"""The schedule of the faults and jobs of a run, generated deterministically from a seed."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

BROKERS = ("broker-1", "broker-2", "broker-3")
PROCESSORS = ("processor-1", "processor-2")
UPLOADERS = ("uploader-1", "uploader-2")
SERVICES = ("api", *PROCESSORS, *UPLOADERS)

#: Valid songs by name, with their length in s.
SONGS = {"one": 2.0, "two": 2.7, "three": 3.3, "four": 4.0}
#: A song for which the source responds with 404.
MISSING = "missing"
#: A job that kills every child process that begins it.
POISON = "poison"

#: Clients with their share of the load; the first exceeds its fair share.
CLIENTS = {"greedy": 5, "steady": 2, "quiet": 1, "": 1}
_MISSING_SHARE = 0.05
_POISON_EVERY = 600.0
"""s; the first one is early in every run."""
#: Time without faults at the beginning and the end of a run, s.
_QUIET_TIME = 2.0
#: Range of the interval between two faults, or two jobs, relative to its mean.
_JITTER = (0.4, 1.6)


class Kind(StrEnum):
    """The kind of a fault."""

    KILL = "kill -9"
    PAUSE = "pause"
    RESTART = "restart"
    DROP = "drop"
    DELAY = "delay"
    BLACK_HOLE = "black hole"
    RESET = "reset"
    UNAVAILABLE = "503"
    DISK_FULL = "disk full"
    RECREATED = "recreated"
    TRUNCATED = "truncated"
    RESTORED = "restored from a copy"
    REAPED = "emptied"


#: The faults that destroy what services rely on outside their memory. Jobs may be lost, and the ledger names them.
DESTRUCTIVE = frozenset({Kind.RECREATED, Kind.TRUNCATED, Kind.RESTORED, Kind.REAPED})
#: The topics that are destroyed, as their settings name them by default.
DESTROYED_TOPICS = ("uvr_tasks", "uvr_tasks_p5", "uvr_tasks_bulk", "uvr_results", "uvr_retry_1s")


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault at ``at`` (s from the beginning of the run) for ``duration`` (s)."""

    number: int
    at: float
    kind: Kind
    target: str
    duration: float
    delay: float = 0.0
    """Delay of each chunk in each direction, s, for ``Kind.DELAY``."""


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A job that a client requests until it receives a 202."""

    number: int
    at: float
    song: str
    priority: int
    client: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """The schedule of a run."""

    seed: int
    seconds: float
    faults: tuple[Fault, ...]
    jobs: tuple[PlannedJob, ...]

    def lines(self) -> Iterator[str]:
        """Yield one JSON object per line, for storage and comparison."""
        yield json.dumps({"seed": self.seed, "seconds": self.seconds})
        items: tuple[Fault | PlannedJob, ...] = (*self.faults, *self.jobs)
        for item in items:
            yield json.dumps({type(item).__name__.lower(): asdict(item)})

    @property
    def digest(self) -> str:
        """A digest that identifies the schedule."""
        return hashlib.sha256("\n".join(self.lines()).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class _FaultTemplate:
    """A kind of fault that may be injected into a target."""

    kind: Kind
    target: str
    weight: int
    shortest: float
    longest: float
    locks: tuple[str, ...]
    """Resources that no other fault may affect meanwhile."""
    cooldown: float
    """Additional time for which they stay locked, s: the time to recover."""


def _destructive_templates() -> Iterator[_FaultTemplate]:
    """Yield destructive faults. No process dies while one lasts: it would take what it holds with it."""
    for topic in DESTROYED_TOPICS:
        for kind in (Kind.RECREATED, Kind.TRUNCATED):
            yield _FaultTemplate(kind, topic, 2, 0.0, 3.0, ("brokers",), 20.0)
    yield _FaultTemplate(Kind.RESTORED, BROKERS[0], 4, 5.0, 15.0, ("brokers",), 40.0)
    for name in (*PROCESSORS, *UPLOADERS):
        yield _FaultTemplate(Kind.REAPED, name, 2, 0.0, 3.0, (f"{name} disk",), 2.0)


def _templates() -> Iterator[_FaultTemplate]:
    yield from _services()
    yield from _brokers()
    yield from _network("api", 1)
    yield from _network("s3", 3)
    yield from _network("source", 3)
    yield from _network("receiver", 4)
    for name in ("source", "receiver"):
        yield _FaultTemplate(Kind.UNAVAILABLE, name, 4, 1.0, 6.0, (name,), 1.0)
    yield _FaultTemplate(Kind.KILL, "s3", 3, 0.5, 5.0, ("s3",), 2.0)
    yield _FaultTemplate(Kind.PAUSE, "s3", 3, 0.5, 6.0, ("s3",), 1.0)
    yield _FaultTemplate(Kind.RESTART, "s3", 1, 0.0, 0.0, ("s3",), 3.0)


def _services() -> Iterator[_FaultTemplate]:
    for name in SERVICES:
        is_processor = name in PROCESSORS
        # A child that loads its model uses one core for seconds, so only one may do so at a time.
        locks = (name, "loading") if is_processor else (name,)
        cooldown = 10.0 if is_processor else 4.0
        yield _FaultTemplate(Kind.KILL, name, 3, 0.2, 4.0, locks, cooldown)
        yield _FaultTemplate(Kind.RESTART, name, 2, 0.0, 2.0, locks, cooldown)
        yield _FaultTemplate(Kind.PAUSE, name, 2, 0.5, 3.0, (name,), 2.0)
    for name in (*PROCESSORS, *UPLOADERS):
        # Longer than the session timeout: its partitions move to the other worker, and it returns.
        yield _FaultTemplate(Kind.PAUSE, name, 1, 8.0, 12.0, (name,), 6.0)
        yield _FaultTemplate(Kind.DISK_FULL, name, 2, 1.0, 6.0, (f"{name} disk",), 2.0)
    for name in PROCESSORS:
        child = name.replace("processor", "child")
        yield _FaultTemplate(Kind.KILL, child, 3, 0.0, 0.0, (name, "loading"), 8.0)
        yield _FaultTemplate(Kind.PAUSE, child, 1, 0.5, 6.0, (name,), 2.0)


def _brokers() -> Iterator[_FaultTemplate]:
    """Yield faults of one broker at a time, so that two replicas stay in sync, and faults of the cluster's network."""
    for name in BROKERS:
        yield _FaultTemplate(Kind.KILL, name, 2, 0.5, 5.0, ("brokers",), 8.0)
        yield _FaultTemplate(Kind.RESTART, name, 1, 0.0, 2.0, ("brokers",), 8.0)
        yield _FaultTemplate(Kind.PAUSE, name, 2, 0.5, 8.0, ("brokers",), 5.0)
        yield from _network(name, 2, locks="brokers")
    for kind in (Kind.DROP, Kind.BLACK_HOLE):
        yield _FaultTemplate(kind, "cluster", 1, 1.0, 10.0, ("brokers",), 4.0)


def _network(target: str, weight: int, locks: str = "") -> Iterator[_FaultTemplate]:
    held = (locks or target,)
    yield _FaultTemplate(Kind.DROP, target, weight, 0.5, 6.0, held, 1.5)
    yield _FaultTemplate(Kind.DELAY, target, weight, 2.0, 8.0, held, 0.5)
    yield _FaultTemplate(Kind.BLACK_HOLE, target, weight, 0.5, 8.0, held, 1.5)
    yield _FaultTemplate(Kind.RESET, target, weight, 0.0, 1.0, held, 1.5)


def plan(
    seed: int, minutes: float, *, faults_per_minute: float, jobs_per_minute: float, destructive: bool = False
) -> Schedule:
    """Return the schedule of a run. ``destructive``: its faults are those of ``DESTRUCTIVE``, and no others."""
    seconds = minutes * 60
    templates = tuple(_destructive_templates() if destructive else _templates())
    return Schedule(
        seed=seed,
        seconds=seconds,
        faults=tuple(_faults(random.Random(f"{seed} faults"), templates, seconds, 60 / faults_per_minute)),
        jobs=tuple(_jobs(random.Random(f"{seed} jobs"), seconds, 60 / jobs_per_minute)),
    )


def _times(rng: random.Random, seconds: float, interval: float) -> Iterator[float]:
    at = _QUIET_TIME
    while at < seconds - _QUIET_TIME:
        yield round(at, 3)
        at += interval * rng.uniform(*_JITTER)


def _faults(
    rng: random.Random, templates: Sequence[_FaultTemplate], seconds: float, interval: float
) -> Iterator[Fault]:
    free_at: dict[str, float] = {}
    deck: list[_FaultTemplate] = []
    number = 0
    for at in _times(rng, seconds, interval):
        template = _draw(deck, templates, rng, at, free_at)
        if template is None:
            continue
        number += 1
        duration = round(min(rng.uniform(template.shortest, template.longest), seconds - at), 3)
        delay = round(rng.uniform(0.02, 0.5), 3) if template.kind is Kind.DELAY else 0.0
        for held in template.locks:
            free_at[held] = at + duration + template.cooldown
        yield Fault(number, at, template.kind, template.target, duration, delay)


def _draw(
    deck: list[_FaultTemplate],
    templates: Sequence[_FaultTemplate],
    rng: random.Random,
    at: float,
    free_at: dict[str, float],
) -> _FaultTemplate | None:
    """Return the first possible template of a shuffled deck, so that every kind is drawn."""
    for refilled in (False, True):
        if refilled:
            fresh = [template for template in templates for _ in range(template.weight)]
            rng.shuffle(fresh)
            deck.extend(fresh)
        for position, template in enumerate(deck):
            if all(free_at.get(held, 0.0) <= at for held in template.locks):
                return deck.pop(position)
    return None


def _jobs(rng: random.Random, seconds: float, interval: float) -> Iterator[PlannedJob]:
    poison_at = _QUIET_TIME
    names = tuple(SONGS)
    for number, at in enumerate(_times(rng, seconds, interval), start=1):
        song = MISSING if rng.random() < _MISSING_SHARE else rng.choice(names)
        if at >= poison_at:
            song, poison_at = POISON, at + _POISON_EVERY
        yield PlannedJob(number, at, song, rng.randint(1, 5), _choose_weighted(rng, CLIENTS))


def _choose_weighted(rng: random.Random, choices: dict[str, int]) -> str:
    names: Sequence[str] = tuple(choices)
    return rng.choices(names, tuple(choices.values()))[0]
