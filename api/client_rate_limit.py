"""Rate limit per client: it decides whether a job goes to the topic of its priority or to the bulk topic.

Each client has a token bucket: ``burst`` jobs at once, and one more every ``refill`` s, go to the topic of their
priority. All others go to the bulk topic, which has the share of the lowest priority and uses all processors when no
other topic has jobs. Of ten thousand jobs of one client, at most ``burst`` therefore precede a single job of another
client with the same priority.

Limitations:

- Each API process counts on its own: with n processes a client gets n × ``burst`` jobs.
- The buckets are in memory: after a restart every bucket is full.
- Client names are not authenticated, since all clients share one password. A client that uses a new name for each job
  is never limited.
- The bulk topic is first in, first out: the priority of a job has no effect there.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

#: The largest number of clients with a bucket; they take a few MB.
MAX_CLIENTS = 10_000


@dataclass(slots=True)
class _Bucket:
    full_at: float
    """The time on the clock, s, when the bucket is full again. Each spent token delays it by one ``refill``."""
    reserved: int = 0
    """Tokens reserved for jobs whose publication is in progress."""


class ClientRateLimit:
    """The token buckets of all clients. Thread-safe.

    ``burst``: tokens in a full bucket, ≥ 1. ``refill``: time until one more token is available, s. ``max_clients``:
    buckets that are kept, ≥ 1; beyond that the fullest ones are evicted first. ``clock``: monotonic, s.
    """

    def __init__(
        self, burst: int, refill: float, *, max_clients: int = MAX_CLIENTS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._refill = refill
        self._max_clients = max_clients
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket] = {}
        #: A heap with one entry for each client, ordered by the time when its bucket is full. An outdated entry is
        #: corrected when it reaches the top.
        self._by_fullness: list[tuple[float, str]] = []

    @contextmanager
    def reserve(self, client: str) -> Iterator[bool]:
        """Yield whether the client's next job is within its limit; the block publishes the job.

        A token is reserved during the block and spent at its end. A block that raises spends nothing.
        """
        bucket = self._reserve(client)
        if bucket is None:
            yield False
            return
        queued = False
        try:
            yield True
            queued = True
        finally:
            with self._lock:
                bucket.reserved -= 1
                if queued:
                    bucket.full_at = max(bucket.full_at, self._clock()) + self._refill

    def _reserve(self, client: str) -> _Bucket | None:
        with self._lock:
            now = self._clock()
            bucket = self._buckets.get(client) or self._add(client, now)
            # Reserved tokens count as spent: concurrent publications must not all take the last token.
            wait = max(bucket.full_at - now, 0.0) + bucket.reserved * self._refill
            if wait > (self._burst - 1) * self._refill:
                return None
            bucket.reserved += 1
            return bucket

    def _add(self, client: str, now: float) -> _Bucket:
        while len(self._buckets) >= self._max_clients:
            self._evict()
        bucket = self._buckets[client] = _Bucket(full_at=now)
        heapq.heappush(self._by_fullness, (now, client))
        return bucket

    def _evict(self) -> None:
        """Remove the client whose bucket is full first."""
        while True:
            recorded, client = self._by_fullness[0]
            bucket = self._buckets[client]
            full_at = bucket.full_at + bucket.reserved * self._refill
            if full_at <= recorded:
                heapq.heappop(self._by_fullness)
                del self._buckets[client]
                return
            heapq.heapreplace(self._by_fullness, (full_at, client))
