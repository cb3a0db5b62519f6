"""Schedules the ranges of one file over several connections."""

from __future__ import annotations

import random
import time
from queue import Empty
from typing import Final

from config import KIB, MIB
from pipeline.backoff import Backoff
from pipeline.download.checksum import Checksum, PrefixHash
from pipeline.download.http.request import HttpClient, ResponseStream
from pipeline.download.http.response import Head, source_corrupt
from pipeline.download.parallel.concurrency import MAX_STEP, WINDOW, ConnectionScaler
from pipeline.download.parallel.hedging import Hedger
from pipeline.download.parallel.journal import Entry
from pipeline.download.parallel.range_allocator import ALIGNMENT, RangeAllocator, missing_ranges, piece_size
from pipeline.download.parallel.range_request import RangeClient
from pipeline.download.parallel.resume import ResumeState
from pipeline.download.parallel.revalidation import Revalidation
from pipeline.download.parallel.throughput import Latency, ThroughputEstimator
from pipeline.download.parallel.worker import Finished, RangeWorker, RangeWorkerPool, RangeWriter
from pipeline.download.part_file import PartFile
from pipeline.download.progress import ProgressReporter
from pipeline.download.single_stream import StreamResult
from pipeline.download.sources import RangesLostError, SourceChangedError, Sources
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
#: A single response that took less time than this, s, is assumed to belong to one version.
_SHORT: Final = 1.0


class ParallelDownload:
    """Downloads the missing ranges of one file, verifies it, and renames it. Used once, from one thread.

    ``checksum`` is that of the whole file; None if it is unknown.
    """

    def __init__(
        self,
        client: HttpClient,
        sources: Sources,
        resume_state: ResumeState,
        file: PartFile,
        total: int,
        checksum: Checksum | None,
        reporter: ProgressReporter,
        latency: Latency,
    ) -> None:
        self._sources = sources
        self._file = file
        self._total = total
        self._checksum = checksum
        self._reporter = reporter
        self._latency = latency
        self._is_far = latency.whole >= FAR
        self._watchdog = client.watchdog
        self._limits = limits = client.limits
        self._journal = resume_state.journal
        self._prefix = PrefixHash(file.read, checksum.new()) if checksum else None
        self._allocator = RangeAllocator(missing_ranges(total, resume_state.verified_ranges))
        self._resumed = total - self._allocator.missing
        piece_bytes = piece_size(total, limits.min_piece_bytes) if self._journal else None
        self._writer = RangeWriter(file, self._allocator, piece_bytes, self._resumed)
        ranges = RangeClient(client, total, verified=checksum is not None, keep_alive=self._is_far)
        self._pool = RangeWorkerPool(ranges, self._writer)
        self._hedger = Hedger(self._pool, self._writer, round_trip=latency.round_trip, total=total)
        self._revalidation = Revalidation(ranges, sources.current, latency.round_trip)
        self._started = self._room_checked = time.monotonic()
        max_step = limits.max_connections if self._is_far else MAX_STEP
        self._scaler = ConnectionScaler(limits.max_connections, max_step=max_step)
        self._throughput = ThroughputEstimator(self._started, self._resumed)
        self._requests = self._refusals = self._max_delivering = 0
        self._not_before = 0.0

    def run(self, first: tuple[ResponseStream, int] | None, head: Head) -> StreamResult:
        """Download. ``first``: a response that begins with the first missing byte, and the position of its end.

        Raises the errors of ``download``, SourceChangedError and RangesLostError; written bytes stay written then.
        """
        self._reporter.total, self._reporter.resumed = self._total, self._resumed
        try:
            self._fetch(first)
            if not self._is_intact():
                raise source_corrupt(self._sources.current.subject)
            if not self._checksum and (self._requests > 1 or time.monotonic() - self._started >= _SHORT):
                self._revalidation.confirm(self._writer.last_byte_at)
        finally:
            self._revalidation.cancel()
        self._reporter.finish(self._total)
        self._watchdog.raise_if_fired()
        self._file.commit(durable=self._journal is not None)
        is_sha256 = self._checksum is not None and self._checksum.algorithm == "sha256"
        sha256 = self._prefix.hexdigest() if self._prefix and is_sha256 else None
        return StreamResult(head, self._total, sha256, max(self._max_delivering, 1), self._resumed)

    def _fetch(self, first: tuple[ResponseStream, int] | None) -> None:
        try:
            if first is not None and (assignment := self._allocator.take()):
                self._pool.submit(first[0].source, assignment, first)
                self._requests = 1
                if self._is_far:
                    connections = min(self._limits.max_connections - 1, self._allocator.missing // _FAR_BYTES)
                    self._pool.connect(first[0].source, connections)
            while self._allocator.missing:
                self._handle_events()
                self._watchdog.raise_if_fired()
                with self._writer.lock:
                    missing, received = self._allocator.missing, self._writer.received
                    low_water = self._allocator.low_water(self._total)
                self._reporter.update(received)
                if self._prefix:
                    self._prefix.advance(low_water)
                if missing:
                    self._adjust(missing, received)
        finally:  # workers that are still busy hedge ranges that others have delivered
            self._pool.stop()
            self._record(self._drain_events())

    def _is_intact(self) -> bool:
        """Hash the rest of the file and compare."""
        if self._prefix is None or self._checksum is None:
            return True
        before = -1
        while before < self._prefix.position < self._total:  # stops early if another process has truncated the file
            self._watchdog.raise_if_fired()
            before = self._prefix.position
            self._prefix.advance(self._total)
        return self._prefix.position == self._total and self._checksum.matches(self._prefix.hexdigest())

    def _handle_events(self) -> None:
        """Wait for events, record written pieces in the journal, and process finished assignments."""
        try:
            events = [self._writer.events.get(timeout=_TICK)]
        except Empty:
            return
        events += self._drain_events()
        self._record(events)
        finished = [event for event in events if isinstance(event, Finished)]
        for event in finished:
            self._pool.finished(event)
        for event in finished:
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
        self._max_delivering = max(self._max_delivering, delivering)
        self._throughput.update(now, received, delivering)
        rate = self._throughput.per_connection
        self._writer.max_read = min(self._limits.chunk_bytes, max(_MAX_READS // max(len(active), 1), _MIN_READ))
        wait = self._latency.round_trip if self._pool.find_idle(self._sources.current) else self._latency.whole
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
            if not self._checksum:
                answers = (worker.active_at + self._latency.round_trip for worker in active if not worker.delivering)
                waits = [max(answer - now, 0.0) for answer in answers]
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
        self._requests += len(assignments)
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
            self._scaler.refuse(max(others, self._max_delivering))
            self._refusals += 1
            self._not_before = time.monotonic() + max(pause, _BACKOFF.delay(self._refusals, _RANDOM))
            return
        source.consecutive_failures += 1
        hopeless = isinstance(error, RangesLostError | PermanentError) or pause > MAX_PAUSE
        if not hopeless and source.consecutive_failures < MAX_FAILURES:
            delay = max(pause, _BACKOFF.delay(source.consecutive_failures, _RANDOM))
            self._not_before = time.monotonic() + delay
            return
        if self._sources.is_last(source):
            raise error
        log.warning("download_source_given_up", url=source.subject)
        self._sources.drop(source)
        self._not_before = 0.0
