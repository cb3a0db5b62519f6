"""Downloads the missing ranges of a file over several connections."""

from __future__ import annotations

import random
import time
from queue import Empty
from typing import Final

from config import KIB, MIB
from pipeline.backoff import Backoff
from pipeline.download.checksum import PrefixHash
from pipeline.download.http.request import ResponseStream
from pipeline.download.parallel.concurrency import MAX_STEP, WINDOW, ConnectionScaler
from pipeline.download.parallel.hedging import Hedger
from pipeline.download.parallel.journal import Entry, Journal
from pipeline.download.parallel.range_allocator import ALIGNMENT
from pipeline.download.parallel.range_request import RangeClient
from pipeline.download.parallel.revalidation import Revalidation
from pipeline.download.parallel.throughput import Latency, ThroughputEstimator
from pipeline.download.parallel.worker import Finished, RangeWorker, RangeWriter, WorkerPool
from pipeline.download.part_file import ScatteredFile
from pipeline.download.progress import ProgressReporter
from pipeline.download.sources import RangesLostError, Source, SourceChangedError, Sources
from pipeline.errors import CancelledError, InfrastructureError, PermanentError, TransientError
from pipeline.service.logs import get_logger

log = get_logger(__name__)

#: Failures in a row without progress, while no other connection delivers, after which a source is given up.
MAX_FAILURES: Final = 5
#: A source that demands a longer pause than this, s, is given up: the caller can retry later.
MAX_PAUSE: Final = 15.0
#: A connection that is silent for so long, s, while another worker is idle, is replaced.
SILENT: Final = 2.0

#: From this latency on, s, a source is distant: trials of few connections and new connections take long.
FAR: Final = 0.05
#: A distant source gets one connection in advance for so many bytes, up to the maximum.
_FAR_BYTES: Final = MIB
#: Time for which connections opened in advance wait for the first measurement, s.
_MAX_UNUSED: Final = 2.0
#: The range of a connection on trial takes it so long, s, if it brings no gain.
_TRIAL_TIME: Final = 0.5
#: Minimum time that splitting a range has to save, s.
_SPLIT_GAIN: Final = 0.02

#: Limits of the bytes that one read, and the reads of all workers together, may hold in memory.
_MIN_READ: Final = 64 * KIB
_MAX_READS: Final = 4 * MIB

_BACKOFF: Final = Backoff(base=0.2, cap=10.0)
_RANDOM: Final = random.Random()
#: Maximum time between two iterations, s.
_TICK: Final = 0.02
_ROOM_INTERVAL: Final = 2.0


class RangeScheduler:
    """Fetches all missing bytes of one file. Used once, from one thread."""

    def __init__(
        self,
        client: RangeClient,
        sources: Sources,
        file: ScatteredFile,
        writer: RangeWriter,
        *,
        journal: Journal | None,
        reporter: ProgressReporter,
        prefix: PrefixHash | None,
        latency: Latency,
        revalidation: Revalidation | None,
    ) -> None:
        self._client = client
        self._sources = sources
        self._file = file
        self._writer = writer
        self._allocator = writer.allocator
        self._journal = journal
        self._reporter = reporter
        self._prefix = prefix
        self._latency = latency
        self._revalidation = revalidation
        self._limits = client.client.limits
        self._is_far = latency.whole >= FAR
        self._pool = WorkerPool(client, writer)
        self._hedger = Hedger(self._pool, writer, round_trip=latency.round_trip, total=client.total)
        now = time.monotonic()
        max_level = self._limits.max_connections
        self._scaler = ConnectionScaler(max_level, max_step=max_level if self._is_far else MAX_STEP)
        self._throughput = ThroughputEstimator(now, writer.received)
        self._not_before = 0.0
        self._started = self._room_checked = now
        self._refusals = 0
        self.requests = 0
        """Number of requests, ``first`` included."""
        self.max_delivering = 0
        """Maximum number of connections that delivered at the same time."""

    def run(self, first: tuple[ResponseStream, int] | None) -> None:
        """Fetch until nothing is missing. ``first``: a response that begins with the first missing byte, and its end.

        Raises SourceChangedError, RangesLostError and PipelineErrors; written bytes stay written then.
        """
        try:
            if first is not None:
                assignment = self._allocator.take()
                assert assignment is not None
                self._pool.submit(first[0].source, assignment, first)
                self.requests = 1
                if self._is_far:
                    connections = min(self._limits.max_connections - 1, self._allocator.missing // _FAR_BYTES)
                    self._pool.connect(first[0].source, connections)
            while self._allocator.missing or self._pool.is_busy:
                self._handle_events()
                self._client.client.watchdog.raise_if_fired()
                with self._writer.lock:
                    missing, received = self._allocator.missing, self._writer.received
                    low_water = self._allocator.low_water(self._client.total)
                self._reporter.update(received)
                if self._prefix:
                    self._prefix.advance(low_water)
                if not missing:
                    break  # workers that are still busy hedge ranges that others have delivered
                self._adjust(missing, received)
        finally:
            self._pool.stop()
            self._record(self._drain_events())

    def _handle_events(self) -> None:
        """Wait for events, record written pieces in the journal, and process finished assignments."""
        try:
            events = [self._writer.events.get(timeout=_TICK)]
        except Empty:
            return
        events += self._drain_events()
        self._record(events)
        for event in events:
            if isinstance(event, Finished):
                self._pool.finished(event)
                if event.error is not None and not event.worker.cancelled:
                    self._on_failure(event.worker, event.error)

    def _drain_events(self) -> list[Finished | list[Entry]]:
        return [self._writer.events.get() for _ in range(self._writer.events.qsize())]

    def _record(self, events: list[Finished | list[Entry]]) -> None:
        entries = [entry for event in events if isinstance(event, list) for entry in event]
        if self._journal and entries:
            self._journal.add(entries)

    def _adjust(self, missing: int, received: int) -> None:
        """Adapt the number of connections to the measured rate, and assign work."""
        now = time.monotonic()
        active = self._pool.active
        delivering = sum(worker.delivering for worker in active)
        self.max_delivering = max(self.max_delivering, delivering)
        self._throughput.update(now, received, delivering)
        rate = self._throughput.per_connection
        self._writer.max_read = min(self._limits.chunk_bytes, max(_MAX_READS // max(len(active), 1), _MIN_READ))
        wait = self._latency.round_trip if self._pool.has_idle(self._sources.current) else self._latency.whole
        with self._writer.lock:
            self._allocator.lead = int(rate * wait)
            self._allocator.min_split = max(ALIGNMENT, int(rate * _SPLIT_GAIN))
        settled = delivering == len(active) >= self._scaler.level
        # A single connection shows its rate at once; several first have to reach theirs.
        window = WINDOW if self._scaler.level == 1 else max(WINDOW, self._latency.whole)
        self._scaler.tick(now, received, missing, settled=settled, window=window)
        if self._is_far:  # elsewhere the newest have small ranges, and finish them
            for worker in active[self._scaler.level :]:
                worker.cancel()
        self._assign_work(now)
        if self._is_far and (self._scaler.decided or now - self._started > _MAX_UNUSED):
            self._pool.close_unused()
            if self._revalidation:
                round_trip = self._latency.round_trip
                waits = [max(worker.active_at + round_trip - now, 0.0) for worker in active if not worker.delivering]
                self._revalidation.expect_end(self._throughput.time_left(missing, delivering, waits))
        if now - self._room_checked > _ROOM_INTERVAL:
            self._room_checked = now
            self._file.require_room(missing)

    def _assign_work(self, now: float) -> None:
        active = self._pool.active
        idle = self._scaler.level - len(active)
        if idle <= 0 or now < self._not_before:
            return
        max_bytes = None
        if self._scaler.trying and not self._is_far:
            share = self._throughput.per_connection * len(active) / self._scaler.level
            max_bytes = max(int(share * _TRIAL_TIME), ALIGNMENT)
        with self._writer.lock:
            self._allocator.split(idle, max_bytes=max_bytes)
            assignments = [assignment for _ in range(idle) if (assignment := self._allocator.take())]
        self.requests += len(assignments)
        for assignment in assignments:
            self._file.reserve()
            self._pool.submit(self._sources.current, assignment)
        if len(assignments) < idle:
            self._hedger.hedge(now, self._scaler.level)
            for worker in active:
                if now - worker.active_at > SILENT:
                    worker.cancel()

    def _on_failure(self, worker: RangeWorker, error: BaseException) -> None:
        """Decide after a failed request whether to raise, to wait, to use fewer connections, or another source."""
        expected = isinstance(error, RangesLostError | PermanentError | TransientError)
        if not expected or isinstance(error, SourceChangedError | CancelledError | InfrastructureError):
            raise error
        source = worker.source
        log.debug("download_connection_failed", url=source.subject, error=str(error) or type(error).__name__)
        if worker.response_bytes >= ALIGNMENT:
            source.consecutive_failures = 0
            return
        pause = getattr(error, "retry_after", None) or 0.0
        if others := len(self._pool.active):
            # As many have worked before; a connection that was closed may still count at the server.
            self._scaler.refuse(max(others, self.max_delivering))
            self._refusals += 1
            self._not_before = time.monotonic() + max(pause, _BACKOFF.delay(self._refusals, _RANDOM))
            return
        source.consecutive_failures += 1
        hopeless = isinstance(error, RangesLostError | PermanentError) or pause > MAX_PAUSE
        if hopeless or source.consecutive_failures >= MAX_FAILURES:
            self._give_up(source, error)
        else:
            delay = max(pause, _BACKOFF.delay(source.consecutive_failures, _RANDOM))
            self._not_before = time.monotonic() + delay

    def _give_up(self, source: Source, error: BaseException) -> None:
        if self._sources.is_last(source):
            raise error
        log.warning("download_source_given_up", url=source.subject)
        self._sources.drop(source)
        self._not_before = 0.0
