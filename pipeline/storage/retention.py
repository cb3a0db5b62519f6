"""Retention: removes stems, outcomes and what killed processes left behind, once they are old enough.

The uploader sweeps local stores. Buckets have lifecycle rules instead (``pipeline.storage.s3.lifecycle``).

    object                                   removed
    finished stem                            after ``stems``
    outcome                                  after ``outcomes``: not before the last message of its task is gone
    stem that waits for the outcome          after ``leftovers``
    stem in transit, outcome decided         at once: the uploader that decided it was killed before it could
    stem in transit, outcome not decided     after ``leftovers``, by an uploader that has run for ``patience``
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import PipelineError
from pipeline.service import metrics
from pipeline.service.logs import get_logger
from pipeline.storage.local.store import LocalObject, LocalStore
from pipeline.storage.object_keys import ObjectKind, ParsedKey, parse_key
from pipeline.storage.protocol import ObjectStore

if TYPE_CHECKING:
    from config import Settings

log = get_logger(__name__)

_DAY = 86_400.0
#: Time after which an uploader has worked on the results that waited while none was running, s.
PATIENCE = 3_600.0
#: Largest number of objects that one sweep removes.
MAX_REMOVALS = 1_000
#: Longest and shortest pause between sweeps, s.
_LONGEST_PAUSE, _SHORTEST_PAUSE = 3_600.0, 5.0


@dataclass(frozen=True, slots=True)
class Retention:
    """How long objects are kept, s; None: for ever."""

    stems: float | None
    outcomes: float | None
    leftovers: float
    """Objects that no finished task needs; a task may be in work for as long as the log keeps its messages."""

    @classmethod
    def from_settings(cls, settings: Settings) -> Retention:
        stems, log_retention = settings.storage.stem_retention, settings.state.retention_seconds
        outcomes = None if stems is None else max(stems, log_retention)
        return cls(stems=stems, outcomes=outcomes, leftovers=(outcomes or log_retention) + _DAY)

    @property
    def pause(self) -> float:
        """Return the time between two sweeps, s: short for a short retention."""
        return max(_SHORTEST_PAUSE, min(_LONGEST_PAUSE, (self.stems or self.leftovers) / 10))


class Sweeper:
    """Removes old objects from the local ones among the two stores.

    Several processes may sweep the same folders: each object is removed by one of them, and none that is being
    replaced. A power failure may bring removed objects back; the next sweep removes them again.
    """

    def __init__(
        self, store: ObjectStore, handoff: ObjectStore, retention: Retention, *, patience: float = PATIENCE
    ) -> None:
        self._store = store
        self._local = [found for found in (store, handoff) if isinstance(found, LocalStore)]
        self._retention = retention
        self._caught_up_at = time.monotonic() + patience

    def sweep(self) -> bool:
        """Remove up to ``MAX_REMOVALS`` objects, and the folders that are empty; return whether that was all.

        Objects that cannot be removed are logged and left to the next sweep. Raises InfrastructureError if a store
        cannot be read.
        """
        removed: list[LocalObject] = []
        failure = None
        is_complete = True
        for local, found in self._expired(time.time()):
            if len(removed) == MAX_REMOVALS:
                is_complete = False
                break
            try:
                if local.remove_unchanged(found):
                    removed.append(found)
            except PipelineError as error:
                failure = error
        for local in self._local:
            local.remove_empty_folders()
        self._report(removed, failure)
        return is_complete

    def _expired(self, now: float) -> Iterator[tuple[LocalStore, LocalObject]]:
        for local in self._local:
            for found in local.objects():
                parsed = parse_key(found.key)  # None: a file of the operator's
                if parsed is not None and self._is_expired(parsed, now - found.modified):
                    yield local, found

    def _is_expired(self, parsed: ParsedKey, age: float) -> bool:
        """Return whether an object that was stored ``age`` s ago is no longer needed."""
        keep = self._retention
        match parsed.kind:
            case ObjectKind.STEM:
                return keep.stems is not None and age > keep.stems
            case ObjectKind.OUTCOME:
                return keep.outcomes is not None and age > keep.outcomes
            case ObjectKind.STAGED:
                return age > keep.leftovers
            case ObjectKind.HANDOFF:
                is_old = age > keep.leftovers and time.monotonic() >= self._caught_up_at
                return is_old or self._store.stat(parsed.outcome) is not None

    def _report(self, removed: list[LocalObject], failure: PipelineError | None) -> None:
        size = sum(found.bytes for found in removed)
        metrics.swept_objects.inc(len(removed))
        metrics.swept_bytes.inc(size)
        if removed:
            log.info("retention_swept", objects=len(removed), bytes=size)
        if failure is not None:
            log.warning("retention_sweep_failed", code=failure.code, error=failure.message)


@contextmanager
def sweeping(sweeper: Sweeper, pause: float) -> Iterator[None]:
    """Sweep in a thread during the block: at once, and again ``pause`` s after each sweep that removed everything."""
    stopped = threading.Event()

    def sweep_until_stopped() -> None:
        while True:
            is_complete = True
            try:
                is_complete = sweeper.sweep()
            except PipelineError as error:
                log.warning("retention_sweep_failed", code=error.code, error=error.message)
            except Exception:  # the boundary of the thread: jobs go on without sweeps
                log.exception("retention_sweep_failed")
            if stopped.wait(pause if is_complete else _SHORTEST_PAUSE):
                return

    thread = threading.Thread(target=sweep_until_stopped, name="retention", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
