"""Hedged requests: fetch the late ranges of a file over idle connections as well.

On a long and lossy line, the last bytes wait for packets that are sent again. A second request for them often arrives
earlier. Both connections write what they receive, which are the same bytes.
"""

from __future__ import annotations

from typing import Final

from pipeline.download.parallel.worker import RangeWorker, RangeWorkerPool, RangeWriter

#: Maximum workers that fetch the same bytes concurrently.
_MAX_REQUESTS: Final = 3
#: After a silence of so many round trips, more than one packet is lost.
_SILENT_ROUND_TRIPS: Final = 1.25


def hedge_late_ranges(pool: RangeWorkerPool, writer: RangeWriter, round_trip: float, now: float) -> None:
    """Assign each late range to an idle worker as well, as long as there is one. ``round_trip`` in s."""
    for worker in pool.active:
        assignment = worker.assignment
        if assignment is None or pool.find_idle(worker.source) is None or not _is_late(worker, round_trip, now):
            continue
        segment = assignment.segment
        with writer.lock:
            recently = now - segment.shared_at < round_trip  # the previous request can still arrive
            if recently or segment.workers >= _MAX_REQUESTS or not assignment.remaining:
                continue
            shared = writer.allocator.share(assignment, now)
        pool.submit(worker.source, shared)


def _is_late(worker: RangeWorker, round_trip: float, now: float) -> bool:
    """Return whether a second request is expected to be faster than waiting.

    It is if the connection has been silent for longer than a request or a retransmission takes, or if the rest takes
    longer than a round trip at the connection's rate.
    """
    if now - worker.active_at > round_trip * _SILENT_ROUND_TRIPS:
        return True
    if worker.assignment is None or not worker.response_bytes:
        return False
    return worker.assignment.remaining * (now - worker.answered_at) / worker.response_bytes > round_trip
