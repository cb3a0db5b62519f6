"""Recovery times: the time from the end of a fault until the affected part makes progress.

A fault ends when the killed process has been restarted (not yet ready), the paused one resumed, the connection
restored, or the disk freed. Progress is:

* the API: the next 202;
* a processor, its child, its disk: the next job that this processor settles;
* an uploader, its disk: the next job that this uploader settles;
* a broker, the cluster, S3, the source, the receiver, through which all jobs pass: the next delivered webhook.

The time includes idle time. Faults without later progress are counted separately.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from tests.chaos.audit.ledger import Entry, FaultBegan, FaultEnded, StepLogged
from tests.chaos.audit.ledger_index import SETTLED, LedgerIndex
from tests.chaos.schedule import PROCESSORS, UPLOADERS


@dataclass(frozen=True, slots=True)
class Recovery:
    """The recovery times of all faults of one kind on one type of target."""

    kind: str
    target_type: str
    """For example ``broker``, for all brokers."""
    faults: int
    median: float | None
    """s; None if there was no progress after any of them."""
    worst: float | None
    unfinished: int
    """Number of faults without later progress."""


def recoveries(entries: Sequence[Entry]) -> list[Recovery]:
    """Return the recovery times for each kind of fault and type of target, in alphabetical order."""
    times: dict[tuple[str, str], list[float | None]] = defaultdict(list)
    for fault, seconds in _times(entries):
        times[fault.kind, _target_type(fault.target)].append(seconds)
    return [_recovery(kind, target_type, found) for (kind, target_type), found in sorted(times.items())]


def overall(entries: Sequence[Entry]) -> Recovery:
    """Return the recovery times of all faults together."""
    return _recovery("all", "", [seconds for _, seconds in _times(entries)])


def _times(entries: Sequence[Entry]) -> Iterator[tuple[FaultBegan, float | None]]:
    index = LedgerIndex(entries)
    progress = _progress(index)
    ended = {entry.number: entry.at for entry in index.of(FaultEnded)}
    for fault in index.of(FaultBegan):
        if fault.number in ended:
            yield fault, _next(progress[_part(fault.target)], ended[fault.number])


def _recovery(kind: str, target_type: str, found: list[float | None]) -> Recovery:
    finished = [seconds for seconds in found if seconds is not None]
    return Recovery(
        kind=kind,
        target_type=target_type,
        faults=len(found),
        median=median(finished) if finished else None,
        worst=max(finished, default=None),
        unfinished=len(found) - len(finished),
    )


def _progress(index: LedgerIndex) -> dict[str, list[float]]:
    """Return the times of progress by part of the system, in order."""
    times: dict[str, list[float]] = defaultdict(list)
    times["api"] = [answer.at for answer in index.responses.values() if answer.task_uuid]
    times["all"] = [webhook.at for webhook in index.delivered.values()]
    for step in index.of(StepLogged):
        if step.step == SETTLED:
            times[step.service].append(step.at)
    return defaultdict(list, {part: sorted(found) for part, found in times.items()})


def _part(target: str) -> str:
    """Return the part whose progress shows the recovery of ``target``."""
    service = target.replace("child", "processor")
    return service if service in (*PROCESSORS, *UPLOADERS, "api") else "all"


def _target_type(target: str) -> str:
    return target.rpartition("-")[0] or target


def _next(times: list[float], after: float) -> float | None:
    position = bisect_left(times, after)
    return times[position] - after if position < len(times) else None
