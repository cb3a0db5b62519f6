"""Hedged requests: fetch the late ranges of a distant source over idle connections as well.

On a long and lossy line, the last bytes wait for packets that are sent again. A second request for them often arrives
earlier. Each byte is written by the connection that delivers it first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pipeline.download.parallel.range_allocator import Assignment
from pipeline.download.parallel.worker import RangeWorker, RangeWorkerPool, RangeWriter

#: Maximum workers that fetch the same bytes concurrently.
_MAX_REQUESTS: Final = 3
#: Hedging ends when this share of the file has been received twice.
_MAX_DUPLICATES: Final = 1 / 16
#: After a silence of so many round trips, more than one packet is lost.
_SILENT_ROUND_TRIPS: Final = 1.25


@dataclass(slots=True)
class _State:
    """Times concerning one assignment, on the monotonic clock."""

    first_checked_at: float
    hedged_at: float = 0.0


class Hedger:
    """Assigns late ranges to idle workers as well. ``round_trip`` in s, ``total``: size of the file in bytes."""

    def __init__(self, pool: RangeWorkerPool, writer: RangeWriter, *, round_trip: float, total: int) -> None:
        self._pool = pool
        self._writer = writer
        self._round_trip = round_trip
        self._max_duplicates = total * _MAX_DUPLICATES
        self._states: dict[Assignment, _State] = {}

    def hedge(self, now: float, max_workers: int) -> None:
        """Hedge what is late, with at most ``max_workers`` busy workers in all."""
        active = self._pool.active
        assignments = {worker.assignment: worker for worker in active if worker.assignment}
        self._states = {key: state for key, state in self._states.items() if key in assignments}
        for assignment, worker in assignments.items():
            if assignment.segment.workers >= _MAX_REQUESTS or not assignment.remaining:
                continue
            state = self._states.setdefault(assignment, _State(now))
            if not self._is_late(worker, assignment, state, now):
                continue
            exhausted = self._writer.duplicate_bytes > self._max_duplicates or len(self._pool.active) >= max_workers
            if exhausted or self._pool.find_idle(worker.source) is None:
                return
            with self._writer.lock:
                shared = self._writer.allocator.share(assignment)
            if shared is not None:
                self._pool.submit(worker.source, shared)
                state.hedged_at = now

    def _is_late(self, worker: RangeWorker, assignment: Assignment, state: _State, now: float) -> bool:
        """Return whether a second request is expected to be faster than waiting.

        It is if the connection has been silent for longer than a request or a retransmission takes, if the rest takes
        longer than a round trip at the connection's rate, or if the worker is still not done a round trip after the
        first check. A further hedge waits until the previous one can have arrived.
        """
        if now - state.hedged_at < self._round_trip:
            return False
        limit = self._round_trip * _SILENT_ROUND_TRIPS
        if now - worker.active_at > limit:
            return True
        expected = self._round_trip
        if worker.response_bytes:
            expected = assignment.remaining * (now - worker.answered_at) / worker.response_bytes
        return expected > self._round_trip or now - state.first_checked_at > limit
