"""How long it takes until things go on after a fault.

From the moment at which the fault is over (what was killed has been started again, not yet ready; what was paused goes
on; what was cut off is connected; the disk has room) until the next job has come one step further in the part that was
hit:

* the API: the next 202;
* a processor, its child, its disk: the next job that this processor has settled;
* an uploader, its disk: the next job that this uploader has settled;
* a broker, the cluster, S3, the source, the receiver, through which all jobs go: the next job whose webhook is told.

It includes the time for which there was nothing to do. Faults after which nothing came any more are counted apart.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from tests.chaos.books import SETTLED, Books
from tests.chaos.ledger import Began, Ended, Entry, Progressed
from tests.chaos.schedule import PROCESSORS, UPLOADERS


@dataclass(frozen=True, slots=True)
class Recovery:
    """Of all faults of one kind on one sort of target."""

    kind: str
    sort: str
    """Such as ``broker``, for all brokers."""
    faults: int
    median: float | None
    """s; None if nothing came after any of them."""
    worst: float | None
    unfinished: int
    """After how many nothing came."""


def recoveries(entries: Sequence[Entry]) -> list[Recovery]:
    """For each kind and sort of target, in alphabetical order."""
    times: dict[tuple[str, str], list[float | None]] = defaultdict(list)
    for fault, seconds in _times(entries):
        times[fault.kind, _sort(fault.target)].append(seconds)
    return [_recovery(kind, sort, found) for (kind, sort), found in sorted(times.items())]


def overall(entries: Sequence[Entry]) -> Recovery:
    """For all faults together."""
    return _recovery("all", "", [seconds for _, seconds in _times(entries)])


def _times(entries: Sequence[Entry]) -> Iterator[tuple[Began, float | None]]:
    books = Books(entries)
    progress = _progress(books)
    ended = {entry.number: entry.at for entry in books.of(Ended)}
    for fault in books.of(Began):
        if fault.number in ended:
            yield fault, _next(progress[_part(fault.target)], ended[fault.number])


def _recovery(kind: str, sort: str, found: list[float | None]) -> Recovery:
    finished = [seconds for seconds in found if seconds is not None]
    return Recovery(
        kind=kind,
        sort=sort,
        faults=len(found),
        median=median(finished) if finished else None,
        worst=max(finished, default=None),
        unfinished=len(found) - len(finished),
    )


def _progress(books: Books) -> dict[str, list[float]]:
    """When jobs came one step further, by the part of the system, in order."""
    times: dict[str, list[float]] = defaultdict(list)
    times["api"] = [answer.at for answer in books.answered.values() if answer.task_uuid]
    times["all"] = [told.at for told in books.delivered.values()]
    for step in books.of(Progressed):
        if step.step == SETTLED:
            times[step.service].append(step.at)
    return defaultdict(list, {part: sorted(found) for part, found in times.items()})


def _part(target: str) -> str:
    """Whose progress tells that it is over."""
    service = target.replace("child", "processor")
    return service if service in (*PROCESSORS, *UPLOADERS, "api") else "all"


def _sort(target: str) -> str:
    return target.rpartition("-")[0] or target


def _next(times: list[float], after: float) -> float | None:
    position = bisect_left(times, after)
    return times[position] - after if position < len(times) else None
