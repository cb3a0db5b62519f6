"""The ledger of a run: requests, responses, webhooks and faults, one JSON object per line, in the order of events.

Every line is flushed immediately, so that the file of an interrupted run can be examined as well.
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
    """Base class of all entries: an event."""

    at: float = field(default_factory=time.time)
    """s since the epoch"""


@dataclass(frozen=True, kw_only=True)
class Command(Entry):
    """The command of the run."""

    line: str
    seed: int
    digest: str
    """The digest of the schedule."""
    minutes: float
    settings: dict[str, str]
    """Settings of the services that differ from the defaults."""


@dataclass(frozen=True, kw_only=True)
class RequestSent(Entry):
    """A client is about to request a job. Each attempt is a separate job with its own ``post``."""

    post: str
    song: str
    priority: int
    client: str


@dataclass(frozen=True, kw_only=True)
class ResponseReceived(Entry):
    """The API responded, or did not: then ``status`` is None, and the job may have been accepted or not."""

    post: str
    status: int | None
    task_uuid: str | None = None
    seconds: float
    retry_after: bool = False
    """True if the response has a Retry-After header."""
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class WebhookReceived(Entry):
    """A webhook arrived. ``status`` is the status of the response, recorded before it is sent."""

    task_uuid: str
    webhook_id: str
    body: str
    status: int
    signed: bool


@dataclass(frozen=True, kw_only=True)
class Reference(Entry):
    """The stems of a song, separated before any fault: sha256 and bytes by name."""

    song: str
    stems: dict[str, tuple[str, int]]


@dataclass(frozen=True, kw_only=True)
class FaultBegan(Entry):
    """A fault began."""

    number: int
    kind: str
    target: str


@dataclass(frozen=True, kw_only=True)
class FaultEnded(Entry):
    """A fault ended: killed processes have been started, connections restored."""

    number: int


@dataclass(frozen=True, kw_only=True)
class FaultSkipped(Entry):
    """A scheduled fault could not be injected."""

    number: int
    kind: str
    target: str
    why: str


@dataclass(frozen=True, kw_only=True)
class LogDestroyed(Entry):
    """A log is about to be destroyed, at a moment at which all services stand still."""

    number: int
    """The number of the fault."""
    expendable: list[str]
    """The tasks with an unfinished message in the log that no member has begun: they may be lost."""
    held: list[str]
    """The tasks with an unfinished message that a member has begun. They may not be lost."""


@dataclass(frozen=True, kw_only=True)
class ServiceExited(Entry):
    """A service exited unexpectedly; it was restarted."""

    service: str
    status: int


@dataclass(frozen=True, kw_only=True)
class RunFailed(Entry):
    """The run is invalid: a restarted process is not ready in time, or jobs do not finish."""

    what: str


@dataclass(frozen=True, kw_only=True)
class PoisonBegan(Entry):
    """A child process began a poison job and was killed."""

    child: str


@dataclass(frozen=True, kw_only=True)
class StepLogged(Entry):
    """A service logged a completed step of a job. Read from the log after the run, with the time of the line."""

    service: str
    task_uuid: str
    step: str


@dataclass(frozen=True, kw_only=True)
class ObjectFound(Entry):
    """An object in the bucket after the run."""

    key: str
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Leftover(Entry):
    """Something that should not remain after the run: a working file, a process."""

    what: str


@dataclass(frozen=True, kw_only=True)
class Lag(Entry):
    """The lag of a group in a partition after the run; ``behind`` is None if it has committed nothing there."""

    group: str
    topic: str
    partition: int
    behind: int | None
    messages: int
    """Number of messages in the partition."""


@dataclass(frozen=True, kw_only=True)
class StateReported(Entry):
    """A terminal state in the topic of events, after the run."""

    task_uuid: str
    status: str


@dataclass(frozen=True, kw_only=True)
class DeadLetter(Entry):
    """A message in the topic of dead letters, after the run."""

    key: str
    code: str


@dataclass(frozen=True, kw_only=True)
class Phase(Entry):
    """A phase of the run began."""

    name: str


_TYPES: dict[str, type[Entry]] = {
    kind.__name__.lower(): kind
    for kind in (
        *(
            Command,
            RequestSent,
            ResponseReceived,
            WebhookReceived,
            Reference,
            FaultBegan,
            FaultEnded,
            FaultSkipped,
            LogDestroyed,
            ServiceExited,
            RunFailed,
        ),
        *(PoisonBegan, StepLogged, ObjectFound, Leftover, Lag, StateReported, DeadLetter, Phase),
    )
}


class Ledger:
    """An append-only list of entries in a file and in memory. Thread-safe."""

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
        """Append entries; they are in the file when this returns."""
        with self._changed:
            for entry in entries:
                self._file.write(_line(entry))
                self._entries.append(entry)
            self._file.flush()
            self._changed.notify_all()

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All entries so far."""
        with self._changed:
            return tuple(self._entries)


def read(file: Path) -> tuple[Entry, ...]:
    """Return the entries of a ledger file; its last line may be truncated. Raises ValueError for any other defect."""
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
