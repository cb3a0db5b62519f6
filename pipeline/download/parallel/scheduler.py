"""Schedules the ranges of one file over several connections."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from queue import Empty
from typing import Final

from config import KIB, MIB
from pipeline.backoff import Backoff
from pipeline.download.checksum import Checksum
from pipeline.download.http.request import HttpClient, ResponseStream
from pipeline.download.http.response import Head, source_corrupt
from pipeline.download.parallel.concurrency import MAX_STEP, WINDOW, ConnectionScaler
from pipeline.download.parallel.hedging import hedge_late_ranges
from pipeline.download.parallel.range_allocator import ALIGNMENT, RangeAllocator, missing_ranges
from pipeline.download.parallel.range_request import RangeClient
from pipeline.download.parallel.throughput import Latency, ThroughputEstimator
from pipeline.download.parallel.worker import RangeWorker, RangeWorkerPool, RangeWriter
from pipeline.download.part_file import PartFile
from pipeline.download.progress import ProgressReporter
from pipeline.download.resume import ResumeState
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
_RANDOM: Final = random.Random()  # noqa: S311  jitter of a delay
#: Maximum time between two iterations, s.
_TICK: Final = 0.02
_ROOM_INTERVAL: Final = 2.0
#: A single response that took less time than this, s, is assumed to belong to one version.
_SHORT: Final = 1.0
#: Round trips before the expected end from which a distant source is asked for its version.
_ASK_AHEAD: Final = 1.25
#: Requests for the version per round trip, and connections that are kept open for them.
_QUESTIONS: Final = 5
_HASH_BLOCK: Final = MIB


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
        self._durable = resume_state.journal is not None
        self._allocator = RangeAllocator(missing_ranges(total, resume_state.verified_ranges))
        self._resumed = total - self._allocator.missing
        self._writer = RangeWriter(
            file,
            self._allocator,
            resume_state.journal,
            max_read=limits.chunk_bytes,
            piece_bytes=limits.min_piece_bytes,
        )
        ranges = RangeClient(client, total, verified=checksum is not None, keep_alive=self._is_far)
        self._pool = RangeWorkerPool(ranges, self._writer)
        self._started = self._room_checked = time.monotonic()
        max_step = limits.max_connections if self._is_far else MAX_STEP
        self._scaler = ConnectionScaler(limits.max_connections, max_step=max_step)
        self._throughput = ThroughputEstimator(self._started, self._resumed)
        self._requests = self._refusals = self._max_delivering = 0
        self._not_before = self._next_question = 0.0

    def run(self, first: tuple[ResponseStream, int] | None, head: Head) -> StreamResult:
        """Download. ``first``: a response that begins with the first missing byte, and the position of its end.

        Raises the errors of ``download``, SourceChangedError and RangesLostError; written bytes stay written then.
        """
        self._reporter.total, self._reporter.resumed = self._total, self._resumed
        try:
            self._fetch(first)
            sha256 = self._verified_sha256()
            if not self._checksum and (self._requests > 1 or time.monotonic() - self._started >= _SHORT):
                self._revalidate()
        finally:  # workers that are still busy hedge ranges that others have delivered
            self._pool.stop()
        self._reporter.finish(self._total)
        self._watchdog.raise_if_fired()
        self._file.commit(durable=self._durable)
        return StreamResult(head, self._total, sha256, max(self._max_delivering, 1), self._resumed)

    def _fetch(self, first: tuple[ResponseStream, int] | None) -> None:
        if first is not None and (assignment := self._allocator.take()):
            self._pool.submit(first[0].source, assignment, first)
            self._requests = 1
            if self._is_far:
                connections = min(self._limits.max_connections - 1, self._allocator.missing // _FAR_BYTES)
                self._pool.connect(first[0].source, connections + _QUESTIONS)
        while self._allocator.missing:
            self._handle_events()
            self._watchdog.raise_if_fired()
            with self._writer.lock:
                missing = self._allocator.missing
            self._reporter.update(self._total - missing)
            if missing:
                self._adjust(missing)

    def _verified_sha256(self) -> str | None:
        """Compare the hash of the whole file. Return it if it is a SHA-256."""
        if self._checksum is None:
            return None
        digest, position = self._checksum.new(), 0
        while data := self._file.read(position, _HASH_BLOCK):
            self._watchdog.raise_if_fired()
            digest.update(data)
            position += len(data)
        if not self._checksum.matches(digest.hexdigest()):
            raise source_corrupt(self._sources.current.subject)
        return digest.hexdigest() if self._checksum.algorithm == "sha256" else None

    def _revalidate(self) -> None:
        """Wait for a response that the source began after the last byte; raise SourceChangedError if it has changed.

        The parts of a file all belong to one version when their responses begin. A file that is overwritten while it
        is being sent shows only in a response that begins after the last bytes were read.
        """
        self._pool.revalidate(self._sources.current, self._latency.round_trip)
        while self._writer.confirmed_until < self._writer.last_byte_at and self._pool.revalidating:
            self._watchdog.raise_if_fired()
            with suppress(Empty):
                event = self._writer.events.get(timeout=_TICK)
                self._pool.finished(event)
                if isinstance(event.error, SourceChangedError):
                    raise event.error

    def _handle_events(self) -> None:
        """Wait for workers that have ended their work."""
        try:
            events = [self._writer.events.get(timeout=_TICK)]
        except Empty:
            return
        events += [self._writer.events.get() for _ in range(self._writer.events.qsize())]
        for event in events:
            self._pool.finished(event)
        for event in events:
            if event.error is not None and not event.worker.cancelled:
                self._on_failure(event.worker, event.error)

    def _adjust(self, missing: int) -> None:
        """Adapt the number of connections to the measured rate, and assign work."""
        now, received = time.monotonic(), self._total - missing
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
            self._pool.close_unused(keep=_QUESTIONS)
            if not self._checksum and missing <= rate * delivering * self._latency.round_trip * _ASK_AHEAD:
                self._revalidate_ahead(now)
        if now - self._room_checked > _ROOM_INTERVAL:
            self._room_checked = now
            self._file.require_room(missing)

    def _revalidate_ahead(self, now: float) -> None:
        """Ask a distant source for its version again and again, so that an answer arrives soon after the last byte."""
        source, round_trip = self._sources.current, self._latency.round_trip
        if now >= self._next_question and self._pool.find_idle(source):
            self._pool.revalidate(source, round_trip)
            self._next_question = now + round_trip / _QUESTIONS

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
            hedge_late_ranges(self._pool, self._writer, self._latency.round_trip, now)
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
