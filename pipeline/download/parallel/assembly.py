"""One file from its parts: fetched, put together, checked, mended where that is possible, and given its name."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from typing import Final

from pipeline.download.checksum import Checksum, PrefixHash
from pipeline.download.http.request import HttpClient, ResponseStream
from pipeline.download.http.response import Head, source_corrupt
from pipeline.download.parallel.range_allocator import ByteRange, RangeAllocator, missing_ranges, piece_size
from pipeline.download.parallel.range_request import ask
from pipeline.download.parallel.resume import ResumeState
from pipeline.download.parallel.scheduler import FAR, RangedDownload
from pipeline.download.parallel.throughput import Latency
from pipeline.download.parallel.witness import FIRST_BYTE, Witness
from pipeline.download.parallel.worker import Crew
from pipeline.download.part_file import ScatteredFile
from pipeline.download.progress import ProgressReporter
from pipeline.download.single_stream import StreamResult
from pipeline.download.sources import RangesLostError, Sources
from pipeline.errors import PermanentError, TransientError

#: Rounds of fetching pieces again that turned out to be wrong.
MAX_REPAIRS: Final = 2
#: A single answer that took less, s, is taken to be of one version.
_SHORT: Final = 1.0
_BLOCK: Final = 1024**2


@dataclass
class Assembly:
    """Used once."""

    line: HttpClient
    sources: Sources
    remains: ResumeState
    reporter: ProgressReporter
    checksum: Checksum | None
    latency: Latency
    connections: int = field(default=1, init=False)
    witness: Witness | None = field(default=None, init=False)
    started: float = field(default_factory=time.monotonic, init=False)

    def run(
        self, first: tuple[ResponseStream, int] | None, head: Head, total: int, file: ScatteredFile
    ) -> StreamResult:
        """Fill the gaps of ``file``. ``first``: an answer that begins with the first gap, and where it ends.

        Raises as ``download``, and SourceChangedError and RangesLostError.
        """
        crew = self._crew(total, file)
        self.reporter.resumed = resumed = total - crew.allotment.missing
        prefix = self._fetch(crew, first)
        for _ in range(MAX_REPAIRS):
            if self._is_right(prefix, total):
                break
            self._demand_again(crew, file, total)
            prefix = self._fetch(crew, None)
        if not self._is_right(prefix, total):
            raise source_corrupt(self.sources.current.subject)
        try:
            self._check_version(crew)
        finally:
            if self.witness:
                self.witness.dismiss()
        self.reporter.finish(total)
        self.line.watchdog.raise_if_fired()
        file.commit(durable=self.remains.journal is not None)
        sha256 = prefix.hexdigest() if prefix and self.checksum and self.checksum.algorithm == "sha256" else None
        return StreamResult(head, total, sha256, self.connections, resumed)

    def _crew(self, total: int, file: ScatteredFile) -> Crew:
        limits = self.line.limits
        journalled = self.remains.journal is not None
        crew = Crew(
            self.line,
            file,
            RangeAllocator(missing_ranges(total, self.remains.spans)),
            total,
            chunk_bytes=limits.chunk_bytes,
            piece_bytes=piece_size(total, limits.min_piece_bytes) if journalled else None,
            verified=self.checksum is not None,
            keep=self.latency.whole >= FAR,
        )
        crew.received = total - crew.allotment.missing
        return crew

    def _fetch(self, crew: Crew, first: tuple[ResponseStream, int] | None) -> PrefixHash | None:
        prefix = PrefixHash(crew.file, self.checksum.algorithm) if self.checksum else None
        run = RangedDownload(
            crew,
            self.sources,
            journal=self.remains.journal,
            reporter=self.reporter,
            prefix=prefix,
            latency=self.latency,
        )
        if crew.allotment.missing:
            run.run(first)
            self.witness = run.witness
        self.connections = max(self.connections, run.most_connections)
        return prefix

    def _is_right(self, prefix: PrefixHash | None, total: int) -> bool:
        if prefix is None or self.checksum is None:
            return True
        while prefix.position < total:
            self.line.watchdog.raise_if_fired()
            before = prefix.position
            prefix.advance(total)
            if prefix.position == before:
                return False  # somebody has cut our file off
        return self.checksum.matches(prefix.hexdigest())

    def _check_version(self, crew: Crew) -> None:
        """Without a hash, ask once more for the version that was begun: the file may have been overwritten while the
        last parts of it were on their way. Raises SourceChangedError.
        """
        if self.checksum or (crew.requests == 1 and time.monotonic() - self.started < _SHORT):
            return
        if self.witness and self.witness.confirms(crew.last_at):
            return
        try:
            exchange, _ = ask(self.line, self.sources.current, FIRST_BYTE, crew.total, verified=False)
            exchange.close()
        except (RangesLostError, PermanentError, TransientError):
            self.line.watchdog.raise_if_fired()  # a source that does not say so does not say that it has changed

    def _demand_again(self, crew: Crew, file: ScatteredFile, total: int) -> None:
        """Free the pieces that are wrong, and ask those who gave them no more."""
        bad = list(self._wrong_pieces(file, total))
        if not bad:
            raise source_corrupt(self.sources.current.subject)
        for span in bad:
            for given, source in crew.authors:
                if given.start < span.end and given.end > span.start:
                    self.sources.drop(source)
            if self.remains.journal:
                self.remains.journal.revoke(span)
            crew.allotment.demand(span)
            crew.received -= span.size

    def _wrong_pieces(self, file: ScatteredFile, total: int) -> list[ByteRange]:
        assert self.checksum is not None
        wrong = []
        for start, end, digest in self.checksum.spans(total):
            actual = hashlib.sha256()
            for position in range(start, end, _BLOCK):
                self.line.watchdog.raise_if_fired()
                actual.update(file.read(position, min(_BLOCK, end - position)))
            if actual.hexdigest() != digest:
                wrong.append(ByteRange(start, end))
        return wrong
