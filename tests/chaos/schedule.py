"""What happens when: the faults and the jobs of a run, drawn from its seed. The same seed, the same schedule."""

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

#: Sound songs by name, with their length in s.
SONGS = {"one": 2.0, "two": 2.7, "three": 3.3, "four": 4.0}
#: A source that answers 404.
MISSING = "missing"
#: A job that ends every child process that begins it.
POISON = "poison"

#: Clients, by how much of the load is theirs: the first asks for more than its share.
CLIENTS = {"greedy": 5, "steady": 2, "quiet": 1, "": 1}
_MISSING_SHARE = 0.05
_POISON_EVERY = 600.0
"""s; one comes early in any run."""
#: At the beginning and the end of a run nothing is broken, s.
_CALM = 2.0
#: Spread of the time between two faults, and two jobs, around its mean.
_JITTER = (0.4, 1.6)


class Kind(StrEnum):
    """What is done to a part of the system."""

    KILL = "kill -9"
    PAUSE = "pause"
    RESTART = "restart"
    DROP = "drop"
    DELAY = "delay"
    BLACK_HOLE = "black hole"
    RESET = "reset"
    UNWELL = "503"
    DISK_FULL = "disk full"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: from ``at``, for ``duration``; both in s from the beginning of the run."""

    number: int
    at: float
    kind: Kind
    target: str
    duration: float
    delay: float = 0.0
    """Of each chunk each way, s, with ``Kind.DELAY``."""


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """One job that a client asks for, as often as it takes to get a 202."""

    number: int
    at: float
    song: str
    priority: int
    client: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """All of a run."""

    seed: int
    seconds: float
    faults: tuple[Fault, ...]
    jobs: tuple[PlannedJob, ...]

    def lines(self) -> Iterator[str]:
        """One JSON object per line, to be written down and compared."""
        yield json.dumps({"seed": self.seed, "seconds": self.seconds})
        items: tuple[Fault | PlannedJob, ...] = (*self.faults, *self.jobs)
        for item in items:
            yield json.dumps({type(item).__name__.lower(): asdict(item)})

    @property
    def digest(self) -> str:
        """Two schedules are the same if their digests are."""
        return hashlib.sha256("\n".join(self.lines()).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class _Choice:
    """A kind of fault that a target may meet."""

    kind: Kind
    target: str
    weight: int
    shortest: float
    longest: float
    holds: tuple[str, ...]
    """What no other fault may touch meanwhile."""
    rest: float
    """How much longer not, s: the time to get up again."""


def _menu() -> Iterator[_Choice]:
    yield from _services()
    yield from _brokers()
    yield from _network("api", 1)
    yield from _network("s3", 3)
    yield from _network("source", 3)
    yield from _network("receiver", 4)
    for name in ("source", "receiver"):
        yield _Choice(Kind.UNWELL, name, 4, 1.0, 6.0, (name,), 1.0)
    yield _Choice(Kind.KILL, "s3", 3, 0.5, 5.0, ("s3",), 2.0)
    yield _Choice(Kind.PAUSE, "s3", 3, 0.5, 6.0, ("s3",), 1.0)
    yield _Choice(Kind.RESTART, "s3", 1, 0.0, 0.0, ("s3",), 3.0)


def _services() -> Iterator[_Choice]:
    for name in SERVICES:
        is_processor = name in PROCESSORS
        # A child that loads its model keeps one core busy for seconds, so only one does at a time.
        holds = (name, "loading") if is_processor else (name,)
        rest = 10.0 if is_processor else 4.0
        yield _Choice(Kind.KILL, name, 3, 0.2, 4.0, holds, rest)
        yield _Choice(Kind.RESTART, name, 2, 0.0, 2.0, holds, rest)
        yield _Choice(Kind.PAUSE, name, 2, 0.5, 3.0, (name,), 2.0)
    for name in (*PROCESSORS, *UPLOADERS):
        # Longer than the session's time-out: its partitions go to the other one, and it comes back.
        yield _Choice(Kind.PAUSE, name, 1, 8.0, 12.0, (name,), 6.0)
        yield _Choice(Kind.DISK_FULL, name, 2, 1.0, 6.0, (f"{name} disk",), 2.0)
    for name in PROCESSORS:
        child = name.replace("processor", "child")
        yield _Choice(Kind.KILL, child, 3, 0.0, 0.0, (name, "loading"), 8.0)
        yield _Choice(Kind.PAUSE, child, 1, 0.5, 6.0, (name,), 2.0)


def _brokers() -> Iterator[_Choice]:
    """One broker is away at a time, so that two replicas of each partition are in sync; at times all are cut off."""
    for name in BROKERS:
        yield _Choice(Kind.KILL, name, 2, 0.5, 5.0, ("brokers",), 8.0)
        yield _Choice(Kind.RESTART, name, 1, 0.0, 2.0, ("brokers",), 8.0)
        yield _Choice(Kind.PAUSE, name, 2, 0.5, 8.0, ("brokers",), 5.0)
        yield from _network(name, 2, holds="brokers")
    for kind in (Kind.DROP, Kind.BLACK_HOLE):
        yield _Choice(kind, "cluster", 1, 1.0, 10.0, ("brokers",), 4.0)


def _network(target: str, weight: int, holds: str = "") -> Iterator[_Choice]:
    held = (holds or target,)
    yield _Choice(Kind.DROP, target, weight, 0.5, 6.0, held, 1.5)
    yield _Choice(Kind.DELAY, target, weight, 2.0, 8.0, held, 0.5)
    yield _Choice(Kind.BLACK_HOLE, target, weight, 0.5, 8.0, held, 1.5)
    yield _Choice(Kind.RESET, target, weight, 0.0, 1.0, held, 1.5)


def plan(seed: int, minutes: float, *, faults_per_minute: float, jobs_per_minute: float) -> Schedule:
    """The schedule of a run."""
    seconds = minutes * 60
    return Schedule(
        seed=seed,
        seconds=seconds,
        faults=tuple(_faults(random.Random(f"{seed} faults"), seconds, 60 / faults_per_minute)),
        jobs=tuple(_jobs(random.Random(f"{seed} jobs"), seconds, 60 / jobs_per_minute)),
    )


def _moments(rng: random.Random, seconds: float, interval: float) -> Iterator[float]:
    at = _CALM
    while at < seconds - _CALM:
        yield round(at, 3)
        at += interval * rng.uniform(*_JITTER)


def _faults(rng: random.Random, seconds: float, interval: float) -> Iterator[Fault]:
    free_at: dict[str, float] = {}
    deck: list[_Choice] = []
    number = 0
    for at in _moments(rng, seconds, interval):
        choice = _drawn(deck, rng, at, free_at)
        if choice is None:
            continue
        number += 1
        duration = round(min(rng.uniform(choice.shortest, choice.longest), seconds - at), 3)
        delay = round(rng.uniform(0.02, 0.5), 3) if choice.kind is Kind.DELAY else 0.0
        for held in choice.holds:
            free_at[held] = at + duration + choice.rest
        yield Fault(number, at, choice.kind, choice.target, duration, delay)


def _drawn(deck: list[_Choice], rng: random.Random, at: float, free_at: dict[str, float]) -> _Choice | None:
    """The first choice of a shuffled deck that is possible at that time, so that every kind has its turn."""
    for refilled in (False, True):
        if refilled:
            fresh = [choice for choice in _menu() for _ in range(choice.weight)]
            rng.shuffle(fresh)
            deck.extend(fresh)
        for position, choice in enumerate(deck):
            if all(free_at.get(held, 0.0) <= at for held in choice.holds):
                return deck.pop(position)
    return None


def _jobs(rng: random.Random, seconds: float, interval: float) -> Iterator[PlannedJob]:
    poison_at = _CALM
    names = tuple(SONGS)
    for number, at in enumerate(_moments(rng, seconds, interval), start=1):
        song = MISSING if rng.random() < _MISSING_SHARE else rng.choice(names)
        if at >= poison_at:
            song, poison_at = POISON, at + _POISON_EVERY
        yield PlannedJob(number, at, song, rng.randint(1, 5), _weighted(rng, CLIENTS))


def _weighted(rng: random.Random, choices: dict[str, int]) -> str:
    names: Sequence[str] = tuple(choices)
    return rng.choices(names, tuple(choices.values()))[0]
