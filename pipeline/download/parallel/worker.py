"""Worker threads that request ranges, and the writer that puts the received bytes into the file."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from queue import SimpleQueue

from pipeline.download.http.request import PendingRequest, ResponseStream
from pipeline.download.http.response import source_incomplete
from pipeline.download.http.watchdog import Branch, Cancellation
from pipeline.download.parallel.journal import Entry, EntryBuilder
from pipeline.download.parallel.range_allocator import ALIGNMENT, Assignment, ByteRange, RangeAllocator
from pipeline.download.parallel.range_request import RangeClient
from pipeline.download.part_file import PartFile
from pipeline.download.sources import Source
from pipeline.errors import PipelineError


@dataclass(frozen=True, slots=True)
class Finished:
    """The event that a worker has ended its assignment."""

    worker: RangeWorker
    error: BaseException | None


class RangeWriter:
    """Writes the received bytes of all workers, each byte once. Thread-safe."""

    def __init__(self, file: PartFile, allocator: RangeAllocator, piece_bytes: int | None, received: int) -> None:
        """``piece_bytes``: size of the journal's pieces; None without a journal. ``received``: bytes of the file."""
        self._file = file
        self.piece_bytes = piece_bytes
        self.max_read = ALIGNMENT  # maximum bytes per read of one worker
        self.events: SimpleQueue[Finished | list[Entry]] = SimpleQueue()
        self.lock = threading.Lock()  # guards the allocator and the counters
        self.allocator = allocator
        self.received = received
        self.duplicate_bytes = 0  # received, but not needed any more
        self.last_byte_at = 0.0  # on the monotonic clock

    def write(self, assignment: Assignment, data: bytes, builder: EntryBuilder) -> None:
        """Write the needed part of ``data``, the next bytes of the connection that serves ``assignment``."""
        with self.lock:
            begin = assignment.position
            span = self.allocator.claim(assignment, len(data))
            self.duplicate_bytes += len(data) - span.size
            self.last_byte_at = time.monotonic()
        if not span.size:
            return
        view = memoryview(data)[span.start - begin : span.end - begin]
        self._file.write(span.start, view)
        self.record(builder.add(span.start, view))
        with self.lock:
            self.allocator.wrote(assignment, span)
            self.received += span.size

    def record(self, entries: Iterable[Entry]) -> None:
        """Send ``entries``, whose bytes are written, to the scheduler, which owns the journal."""
        if batch := list(entries):
            self.events.put(batch)

    def finish(self, worker: RangeWorker, assignment: Assignment, error: BaseException | None) -> None:
        """End ``assignment``."""
        with self.lock:
            self.allocator.release(assignment)
        self.events.put(Finished(worker, error))


class RangeWorker(threading.Thread):
    """Requests the ranges assigned to it, one after the other, until it is cancelled or a request fails."""

    def __init__(
        self,
        client: RangeClient,
        writer: RangeWriter,
        source: Source,
        *,
        first: tuple[ResponseStream, int] | None = None,
        connect: bool = False,
    ) -> None:
        """``first``: a response that serves the first assignment, and the position of its end.

        ``connect``: open a connection before the first assignment.
        """
        super().__init__(name="download-worker", daemon=True)
        self.source = source
        self.assignment: Assignment | None = None  # the current or the last one
        self.delivering = False  # the current assignment has received bytes
        self.active_at = time.monotonic()  # time of the last received byte, or of the request if there is none
        self.answered_at = 0.0  # time of the first byte of the current response
        self.response_bytes = 0  # received of the current response
        self._client = client
        self._writer = writer
        self._first = first
        self._connect = connect
        self._pending: PendingRequest | None = None
        self._cancellation = Cancellation(first[0].watchdog if first else None)
        self._inbox: SimpleQueue[Assignment | None] = SimpleQueue()

    @property
    def cancelled(self) -> bool:
        return self._cancellation.requested

    def assign(self, assignment: Assignment) -> None:
        """Fetch ``assignment`` next. The worker is idle."""
        self.assignment, self.delivering, self.active_at = assignment, False, time.monotonic()
        self._inbox.put(assignment)

    def cancel(self) -> None:
        """Stop now."""
        self._cancellation.cancel()
        self._inbox.put(None)

    def run(self) -> None:
        error: BaseException | None = None
        if self._connect:
            self._pending = self._client.prepare(self.source, self._attach)
            try:
                self._pending.connect()
            except PipelineError:
                self._close_connection()  # the first assignment opens another one
        while error is None and (assignment := self._inbox.get()) is not None:
            try:
                self._fetch(assignment)
            except BaseException as caught:  # noqa: BLE001 - the boundary of the thread: the scheduler decides
                error = caught
            self._writer.finish(self, assignment, error)
        if self._first is not None:
            self._first[0].close()
        self._close_connection()

    def _fetch(self, assignment: Assignment) -> None:
        if self.cancelled or not assignment.remaining:
            return
        self.response_bytes = 0
        first, self._first = self._first, None
        if first is None and self._client.keep_alive and self._pending is None:
            self._pending = self._client.prepare(self.source, self._attach)
        span = ByteRange(assignment.start, assignment.end)
        stream, end = first or self._client.request(self.source, span, self._attach, self._pending)
        self._pending = None  # the stream owns the connection now
        with stream:
            etag = self.source.validator.etag if self.source.validator else None
            builder = EntryBuilder(assignment.start, self._writer.piece_bytes, etag)
            try:
                # A server may send less than requested: the scheduler assigns the rest again.
                while not self.cancelled and assignment.remaining and assignment.position < end:
                    data = stream.read(min(self._writer.max_read, assignment.remaining or 1))
                    if not data:
                        raise source_incomplete(self.source.subject)
                    self.active_at, self.delivering = time.monotonic(), True
                    self.answered_at = self.answered_at if self.response_bytes else self.active_at
                    self.response_bytes += len(data)
                    self._writer.write(assignment, data, builder)
            finally:
                self._writer.record(builder.finish())
            self._pending = stream.next_request()

    def _attach(self, watchdog: Branch) -> None:
        self.active_at = time.monotonic()
        self._cancellation.attach(watchdog)

    def _close_connection(self) -> None:
        if self._pending is not None:
            self._pending.close()
            self._pending = None


class RangeWorkerPool:
    """The busy and the idle workers of one download. Used by one thread."""

    def __init__(self, client: RangeClient, writer: RangeWriter) -> None:
        self._client = client
        self._writer = writer
        self._busy: list[RangeWorker] = []
        self._idle: list[RangeWorker] = []
        self._closing: list[RangeWorker] = []

    @property
    def active(self) -> list[RangeWorker]:
        """The workers that have an assignment and are not cancelled, the oldest first."""
        return [worker for worker in self._busy if not worker.cancelled]

    def submit(self, source: Source, assignment: Assignment, first: tuple[ResponseStream, int] | None = None) -> None:
        """Assign work to an idle worker, else to a new one."""
        worker = None if first else self.find_idle(source)
        if worker is not None:
            self._idle.remove(worker)
        else:
            worker = RangeWorker(self._client, self._writer, source, first=first)
            worker.start()
        self._busy.append(worker)
        worker.assign(assignment)

    def find_idle(self, source: Source) -> RangeWorker | None:
        """Return the idle worker of ``source`` that was used last: its congestion window is the largest."""
        return next((worker for worker in reversed(self._idle) if worker.source is source), None)

    def finished(self, event: Finished) -> None:
        """Make a worker idle after its assignment, or remove it if it has ended."""
        worker = event.worker
        self._busy.remove(worker)
        if event.error is None and not worker.cancelled:
            self._idle.append(worker)
        else:
            worker.join()

    def connect(self, source: Source, count: int) -> None:
        """Add ``count`` idle workers that open their connections now."""
        for _ in range(count):
            self._idle.append(RangeWorker(self._client, self._writer, source, connect=True))
            self._idle[-1].start()

    def close_unused(self) -> None:
        """Stop the idle workers that have never had an assignment."""
        unused = [worker for worker in self._idle if worker.assignment is None]
        for worker in unused:
            worker.cancel()
            self._idle.remove(worker)
        self._closing += unused

    def stop(self) -> None:
        """Cancel all workers and wait for them."""
        workers = (*self._busy, *self._idle, *self._closing)
        for worker in workers:
            worker.cancel()
        for worker in workers:
            worker.join()
