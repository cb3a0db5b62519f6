"""Worker threads that request ranges, and the writer that puts the received bytes into the file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Final

from pipeline.download.http.request import PendingRequest, ResponseStream
from pipeline.download.http.response import source_incomplete
from pipeline.download.http.watchdog import Branch
from pipeline.download.journal import Journal, PieceRecorder
from pipeline.download.parallel.range_allocator import Assignment, ByteRange, RangeAllocator
from pipeline.download.parallel.range_request import RangeClient
from pipeline.download.part_file import PartFile
from pipeline.download.sources import RangesLostError, Source
from pipeline.errors import PermanentError, PipelineError, TransientError

#: The smallest range that can be requested: for a question after the version, only the response head matters.
_FIRST_BYTE: Final = ByteRange(0, 1)


@dataclass(frozen=True, slots=True)
class Finished:
    """The event that a worker has ended its work."""

    worker: RangeWorker
    error: BaseException | None


class RangeWriter:
    """Writes the received bytes of all workers. Thread-safe."""

    def __init__(
        self,
        file: PartFile,
        allocator: RangeAllocator,
        journal: Journal | None,
        *,
        max_read: int,
        piece_bytes: int,
    ) -> None:
        """``max_read``: maximum bytes per read of one worker."""
        self._file = file
        self._journal = journal
        self._piece_bytes = piece_bytes
        self.max_read = max_read
        self.events: SimpleQueue[Finished] = SimpleQueue()
        self.lock = threading.Lock()  # guards the allocator and the counters
        self.allocator = allocator
        self.last_byte_at = 0.0  # on the monotonic clock
        self.confirmed_until = -1.0
        """Bytes received before this time, on the monotonic clock, belong to the expected version."""

    def recorder(self, start: int) -> PieceRecorder:
        """Return the journal's recorder for the bytes of one response, which begins at ``start``."""
        return PieceRecorder(self._journal, start, self._piece_bytes)

    def write(self, assignment: Assignment, data: bytes, recorder: PieceRecorder) -> None:
        """Write the needed part of ``data``, the next bytes of the connection that serves ``assignment``."""
        with self.lock:
            position = assignment.position
            count = self.allocator.claim(assignment, len(data))
            self.last_byte_at = time.monotonic()
        view = memoryview(data)[:count]
        self._file.write(position, view)
        recorder.add(position, view)
        with self.lock:
            self.allocator.wrote(assignment, position + count)

    def confirm(self, until: float) -> None:
        """Record that the source had the expected version at ``until``."""
        with self.lock:
            self.confirmed_until = max(self.confirmed_until, until)

    def release(self, assignment: Assignment) -> None:
        """End ``assignment``."""
        with self.lock:
            self.allocator.release(assignment)


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
        self.cancelled = False
        self._client = client
        self._writer = writer
        self._first = first
        self._connect = connect
        self._pending: PendingRequest | None = None
        self._watchdog: Branch | None = first[0].watchdog if first else None  # of the current request
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def assign(self, assignment: Assignment) -> None:
        """Fetch ``assignment`` next. The worker is idle."""
        self.assignment, self.delivering, self.active_at = assignment, False, time.monotonic()
        self._inbox.put(lambda: self._fetch(assignment))

    def revalidate(self, round_trip: float) -> None:
        """Ask next whether the source still has the expected version. The worker is idle. ``round_trip`` in s."""
        self._inbox.put(lambda: self._ask_version(round_trip))

    def cancel(self) -> None:
        """Stop now."""
        self.cancelled = True
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._inbox.put(None)

    def run(self) -> None:
        error: BaseException | None = None
        if self._connect:
            self._pending = self._client.prepare(self.source, self._attach)
            try:
                self._pending.connect()
            except PipelineError:
                self._close_connection()  # the first assignment opens another one
        while error is None and (work := self._inbox.get()) is not None:
            try:
                work()
            except BaseException as caught:  # noqa: BLE001 - the boundary of the thread: the scheduler decides
                error = caught
            self._writer.events.put(Finished(self, error))
        if self._first is not None:
            self._first[0].close()
        self._close_connection()

    def _fetch(self, assignment: Assignment) -> None:
        try:
            if not self.cancelled and assignment.remaining:
                self._receive(assignment)
        finally:
            self._writer.release(assignment)

    def _receive(self, assignment: Assignment) -> None:
        self.response_bytes = 0
        first, self._first = self._first, None
        stream, end = first or self._request(ByteRange(assignment.start, assignment.end))
        with stream:
            recorder = self._writer.recorder(assignment.start)
            try:
                # A server may send less than requested: the scheduler assigns the rest again.
                while not self.cancelled and assignment.remaining and assignment.position < end:
                    data = stream.read(min(self._writer.max_read, max(assignment.remaining, 1)))
                    if not data:
                        raise source_incomplete(self.source.subject)
                    self.active_at, self.delivering = time.monotonic(), True
                    self.answered_at = self.answered_at if self.response_bytes else self.active_at
                    self.response_bytes += len(data)
                    self._writer.write(assignment, data, recorder)
                    del data  # the next read reuses its memory, which is still in the CPU's cache
            finally:
                recorder.finish()
            self._pending = stream.next_request()

    def _ask_version(self, round_trip: float) -> None:
        """Raise SourceChangedError if the source has another version. One that cannot answer counts as unchanged."""
        if self.cancelled:
            return
        with suppress(RangesLostError, PermanentError, TransientError):
            sent_at = time.monotonic()
            stream, _ = self._request(_FIRST_BYTE)
            # A response that took longer was delayed on its way, so the server may have sent it earlier.
            self._writer.confirm(min(time.monotonic(), sent_at + round_trip))
            with stream:
                stream.read(_FIRST_BYTE.size)
                self._pending = stream.next_request()

    def _request(self, span: ByteRange) -> tuple[ResponseStream, int]:
        """Request ``span``, over the open connection if there is one."""
        if self._client.keep_alive and self._pending is None:
            self._pending = self._client.prepare(self.source, self._attach)
        try:
            result = self._client.request(self.source, span, self._attach, self._pending)
        except BaseException:
            self._close_connection()
            raise
        self._pending = None  # the stream owns the connection now
        return result

    def _attach(self, watchdog: Branch) -> None:
        self.active_at = time.monotonic()
        self._watchdog = watchdog
        if self.cancelled:  # set in the meantime: whichever of the two threads comes second cancels
            watchdog.cancel()

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
        self.revalidating: list[RangeWorker] = []
        """The workers that ask for the version."""

    @property
    def active(self) -> list[RangeWorker]:
        """The workers that have an assignment and are not cancelled, the oldest first."""
        return [worker for worker in self._busy if not worker.cancelled]

    def submit(self, source: Source, assignment: Assignment, first: tuple[ResponseStream, int] | None = None) -> None:
        """Assign work to an idle worker, else to a new one."""
        worker = self._start(source, first=first) if first else self._obtain(source)
        self._busy.append(worker)
        worker.assign(assignment)

    def revalidate(self, source: Source, round_trip: float) -> None:
        """Let an idle worker, else a new one, ask whether ``source`` still has the expected version."""
        worker = self._obtain(source)
        self.revalidating.append(worker)
        worker.revalidate(round_trip)

    def find_idle(self, source: Source) -> RangeWorker | None:
        """Return the idle worker of ``source`` that was used last: its congestion window is the largest."""
        return next((worker for worker in reversed(self._idle) if worker.source is source), None)

    def finished(self, event: Finished) -> None:
        """Make a worker idle after its work, or remove it if it has ended."""
        worker = event.worker
        (self.revalidating if worker in self.revalidating else self._busy).remove(worker)
        if event.error is None and not worker.cancelled:
            self._idle.append(worker)
        else:
            worker.join()

    def connect(self, source: Source, count: int) -> None:
        """Add ``count`` idle workers that open their connections now."""
        self._idle += [self._start(source, connect=True) for _ in range(count)]

    def close_unused(self, *, keep: int) -> None:
        """Stop the idle workers that have never had an assignment, but ``keep`` of them."""
        unused = [worker for worker in self._idle if worker.assignment is None][keep:]
        for worker in unused:
            worker.cancel()
            self._idle.remove(worker)
        self._closing += unused

    def stop(self) -> None:
        """Cancel all workers and wait for them."""
        workers = (*self._busy, *self.revalidating, *self._idle, *self._closing)
        for worker in workers:
            worker.cancel()
        for worker in workers:
            worker.join()

    def _obtain(self, source: Source) -> RangeWorker:
        worker = self.find_idle(source)
        if worker is None:
            return self._start(source)
        self._idle.remove(worker)
        return worker

    def _start(
        self, source: Source, *, first: tuple[ResponseStream, int] | None = None, connect: bool = False
    ) -> RangeWorker:
        worker = RangeWorker(self._client, self._writer, source, first=first, connect=connect)
        worker.start()
        return worker
