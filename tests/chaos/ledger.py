"""What was asked, what was told and what was done to whom, one JSON object per line, in the order in which it happened.

Every line is written through at once, so that the file of a run that was cut short can be examined as well.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Base of all: something that happened."""

    at: float = field(default_factory=time.time)
    """s since the epoch"""


@dataclass(frozen=True, kw_only=True)
class Command(Entry):
    """What was run."""

    line: str
    seed: int
    digest: str
    """Of the schedule."""
    minutes: float
    settings: dict[str, str]
    """Of the services, as far as they are not the defaults."""


@dataclass(frozen=True, kw_only=True)
class Asked(Entry):
    """A client is about to send a job. Each try is a job of its own, under a ``post`` of its own."""

    post: str
    song: str
    priority: int
    client: str


@dataclass(frozen=True, kw_only=True)
class Answered(Entry):
    """The API has answered, or not: then ``status`` is None, and the job may have been accepted or not."""

    post: str
    status: int | None
    task_uuid: str | None = None
    seconds: float
    retry_after: bool = False
    """Whether the answer says when to come again."""
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Told(Entry):
    """A webhook has come. ``answered``: with which status, written down before it is sent."""

    task_uuid: str
    webhook_id: str
    body: str
    answered: int
    signed: bool


@dataclass(frozen=True, kw_only=True)
class Reference(Entry):
    """The stems of a song as they came before anything was broken: sha256 and bytes by name."""

    song: str
    stems: dict[str, tuple[str, int]]


@dataclass(frozen=True, kw_only=True)
class Began(Entry):
    """A fault has begun."""

    number: int
    kind: str
    target: str


@dataclass(frozen=True, kw_only=True)
class Ended(Entry):
    """A fault is over: what was killed has been started, what was cut off is connected."""

    number: int


@dataclass(frozen=True, kw_only=True)
class Skipped(Entry):
    """A fault of the schedule that could not be made."""

    number: int
    kind: str
    target: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Quit(Entry):
    """A service has ended although nobody had told it to; it was started again."""

    service: str
    status: int


@dataclass(frozen=True, kw_only=True)
class Failed(Entry):
    """Something did not go as it must for the run to count: what was started does not come up, jobs do not end."""

    what: str


@dataclass(frozen=True, kw_only=True)
class PoisonTaken(Entry):
    """A child process has begun a job that is poison, and was killed for it."""

    child: str


@dataclass(frozen=True, kw_only=True)
class Progressed(Entry):
    """A service's log says that it has brought a job one step on: read after the run, at the time of the line."""

    service: str
    task_uuid: str
    step: str


@dataclass(frozen=True, kw_only=True)
class Stored(Entry):
    """An object of the bucket, after the end."""

    key: str
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Leftover(Entry):
    """Something that should not be there after the end: a working file, a process."""

    what: str


@dataclass(frozen=True, kw_only=True)
class Lag(Entry):
    """How far a group is behind in a partition, after the end; None if it has never settled anything there."""

    group: str
    topic: str
    partition: int
    behind: int | None
    messages: int
    """That the partition holds."""


@dataclass(frozen=True, kw_only=True)
class Reported(Entry):
    """A terminal state in the topic of events, after the end."""

    task_uuid: str
    status: str


@dataclass(frozen=True, kw_only=True)
class DeadLetter(Entry):
    """A message in the topic of dead letters, after the end."""

    key: str
    code: str


@dataclass(frozen=True, kw_only=True)
class Phase(Entry):
    """A part of the run begins."""

    name: str


_TYPES: dict[str, type[Entry]] = {
    kind.__name__.lower(): kind
    for kind in (
        *(Command, Asked, Answered, Told, Reference, Began, Ended, Skipped, Quit, Failed),
        *(PoisonTaken, Progressed, Stored, Leftover, Lag, Reported, DeadLetter, Phase),
    )
}


class Ledger:
    """Append-only, in a file and in memory. Thread-safe."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file.open("a", encoding="utf-8")
        self._changed = threading.Condition()
        self._entries: list[Entry] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, *entries: Entry) -> None:
        """Write them down; they are in the file when this returns."""
        with self._changed:
            for entry in entries:
                self._file.write(_line(entry))
                self._entries.append(entry)
            self._file.flush()
            self._changed.notify_all()

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Everything so far."""
        with self._changed:
            return tuple(self._entries)


def read(file: Path) -> tuple[Entry, ...]:
    """The entries of a ledger, whose last line may have been cut off. Raises ValueError for anything else."""
    with file.open(encoding="utf-8") as lines:
        return tuple(_entries(lines))


def _entries(lines: Iterable[str]) -> Iterator[Entry]:
    for line in lines:
        if not line.endswith("\n"):
            return
        fields: dict[str, Any] = json.loads(line)
        kind = _TYPES[fields.pop("entry")]
        if "stems" in fields:
            fields["stems"] = {name: tuple(facts) for name, facts in fields["stems"].items()}
        yield kind(**fields)


def _line(entry: Entry) -> str:
    return json.dumps({"entry": type(entry).__name__.lower(), **asdict(entry)}) + "\n"
