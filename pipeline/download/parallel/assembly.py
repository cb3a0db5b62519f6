"""Download a file in parts, verify it, and rename it to its target."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from pipeline.download.checksum import Checksum, PrefixHash
from pipeline.download.http.request import HttpClient, ResponseStream
from pipeline.download.http.response import Head, source_corrupt
from pipeline.download.parallel.range_allocator import RangeAllocator, missing_ranges, piece_size
from pipeline.download.parallel.range_request import RangeClient
from pipeline.download.parallel.resume import ResumeState
from pipeline.download.parallel.revalidation import Revalidation
from pipeline.download.parallel.scheduler import FAR, RangeScheduler
from pipeline.download.parallel.throughput import Latency
from pipeline.download.parallel.worker import RangeWriter
from pipeline.download.part_file import ScatteredFile
from pipeline.download.progress import ProgressReporter
from pipeline.download.single_stream import StreamResult
from pipeline.download.sources import Sources

#: A single response that took less time than this, s, is assumed to belong to one version.
_SHORT: Final = 1.0


@dataclass(frozen=True, slots=True)
class Assembly:
    """Downloads one file in parts. ``checksum`` is that of the whole file, None if it is unknown."""

    client: HttpClient
    sources: Sources
    resume_state: ResumeState
    reporter: ProgressReporter
    checksum: Checksum | None
    latency: Latency

    def run(
        self, first: tuple[ResponseStream, int] | None, head: Head, total: int, file: ScatteredFile
    ) -> StreamResult:
        """Fill the gaps of ``file``. ``first``: a response that begins with the first gap, and the position of its end.

        Raises the errors of ``download``, SourceChangedError and RangesLostError.
        """
        started = time.monotonic()
        journal = self.resume_state.journal
        client = RangeClient(self.client, total, self.checksum is not None, keep_alive=self.latency.whole >= FAR)
        allocator = RangeAllocator(missing_ranges(total, self.resume_state.verified_ranges))
        self.reporter.resumed = resumed = total - allocator.missing
        piece_bytes = piece_size(total, self.client.limits.min_piece_bytes) if journal else None
        writer = RangeWriter(file, allocator, piece_bytes, resumed)
        prefix = PrefixHash(file, self.checksum.algorithm) if self.checksum else None
        revalidation = None
        if self.checksum is None:
            revalidation = Revalidation(client, self.sources.current, self.latency.round_trip)
        scheduler = RangeScheduler(
            client,
            self.sources,
            file,
            writer,
            journal=journal,
            reporter=self.reporter,
            prefix=prefix,
            latency=self.latency,
            revalidation=revalidation,
        )
        try:
            scheduler.run(first)
            if not self._is_right(prefix, total):
                raise source_corrupt(self.sources.current.subject)
            if revalidation and (scheduler.requests > 1 or time.monotonic() - started >= _SHORT):
                revalidation.confirm(writer.last_byte_at)
        finally:
            if revalidation:
                revalidation.cancel()
        self.reporter.finish(total)
        self.client.watchdog.raise_if_fired()
        file.commit(durable=journal is not None)
        sha256 = prefix.hexdigest() if prefix and self.checksum and self.checksum.algorithm == "sha256" else None
        return StreamResult(head, total, sha256, max(scheduler.max_delivering, 1), resumed)

    def _is_right(self, prefix: PrefixHash | None, total: int) -> bool:
        if prefix is None or self.checksum is None:
            return True
        while prefix.position < total:
            self.client.watchdog.raise_if_fired()
            before = prefix.position
            prefix.advance(total)
            if prefix.position == before:
                return False  # another process has truncated the file
        return self.checksum.matches(prefix.hexdigest())
