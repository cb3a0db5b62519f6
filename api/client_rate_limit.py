"""Who may put a job in front of the queue now, so that no client's jobs stand before everybody else's.

Every client has a token bucket: ``burst`` jobs at once go in front, to the topic of their priority, and one more every
``refill`` s. Whatever is above that goes to the bulk topic, which shares the processors' time like the lowest priority
and gets all of it when nobody else has work. So ten thousand jobs of one client put at most ``burst`` of them before
another client's single job of the same priority.

The limits of this:

- Each API process counts for itself: n of them let a client put n × ``burst`` jobs in front.
- The count is in memory: after a restart every bucket is full.
- Names are believed, since all clients share one password. This keeps order among colleagues; whoever takes a new name
  for every job is always in front.
- Clients who ask for very much share the bulk topic in the order of arrival, and the priority of a job in there counts
  no more.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

#: Clients that are remembered; they take a few MB.
CLIENTS = 10_000


@dataclass(slots=True)
class _Bucket:
    full_at: float
    """When all places are free again, s on the clock. Each place that is paid for puts it off by one ``refill``."""
    held: int = 0
    """Places promised to jobs that the broker is being asked to take."""


class ClientRateLimit:
    """The buckets of all clients. Thread-safe.

    ``burst``: places in a bucket, ≥ 1. ``refill``: time until one more of them is free, s. ``clients``: how many are
    remembered, ≥ 1; when there are more, those with the fullest buckets are forgotten, to whom it makes the least
    difference. ``clock``: s, never goes back.
    """

    def __init__(
        self, burst: int, refill: float, *, clients: int = CLIENTS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._refill = refill
        self._clients = clients
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket] = {}
        #: A heap with one entry for each client, by when the bucket is full. An entry that has become too early is
        #: corrected when it comes to the top.
        self._by_fullness: list[tuple[float, str]] = []

    @contextmanager
    def place(self, client: str) -> Iterator[bool]:
        """Whether the client's next job goes in front; the block queues it.

        A place in front is held during the block and paid for at its end. A block that raises has queued nothing and
        costs nothing.
        """
        bucket = self._hold(client)
        if bucket is None:
            yield False
            return
        queued = False
        try:
            yield True
            queued = True
        finally:
            self._let_go(bucket, paid=queued)

    def _hold(self, client: str) -> _Bucket | None:
        with self._lock:
            now = self._clock()
            bucket = self._buckets.get(client) or self._remember(client, now)
            # Held places count as taken: jobs that are queued at the same moment must not all see the last free one.
            wait = max(bucket.full_at - now, 0.0) + bucket.held * self._refill
            if wait > (self._burst - 1) * self._refill:
                return None
            bucket.held += 1
            return bucket

    def _let_go(self, bucket: _Bucket, *, paid: bool) -> None:
        with self._lock:
            bucket.held -= 1
            if paid:
                bucket.full_at = max(bucket.full_at, self._clock()) + self._refill

    def _remember(self, client: str, now: float) -> _Bucket:
        while len(self._buckets) >= self._clients:
            self._forget_one()
        bucket = self._buckets[client] = _Bucket(full_at=now)
        heapq.heappush(self._by_fullness, (now, client))
        return bucket

    def _forget_one(self) -> None:
        """Forget the client whose bucket is full, or will be, before all others."""
        while True:
            noted, client = self._by_fullness[0]
            bucket = self._buckets[client]
            full_at = bucket.full_at + bucket.held * self._refill
            if full_at <= noted:
                heapq.heappop(self._by_fullness)
                del self._buckets[client]
                return
            heapq.heapreplace(self._by_fullness, (full_at, client))
