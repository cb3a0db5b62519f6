"""One way of downloading after the other: in parts or as a whole, gone on with or begun, from the next source."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final

from pipeline.download.checksum import Checksum, announced
from pipeline.download.http.request import HttpClient, ResponseStream
from pipeline.download.http.response import Head, read_head, read_part_head, source_unstable
from pipeline.download.parallel.assembly import Assembly
from pipeline.download.parallel.journal import Identity
from pipeline.download.parallel.range_allocator import ByteRange, missing_ranges
from pipeline.download.parallel.range_request import part_of
from pipeline.download.parallel.resume import ResumeState
from pipeline.download.parallel.throughput import Latency
from pipeline.download.part_file import ScatteredFile
from pipeline.download.progress import ProgressReporter
from pipeline.download.single_stream import StreamResult, stream
from pipeline.download.sources import RangesLostError, Source, SourceChangedError, Sources
from pipeline.download.validators import Agreement, ContentRange, Validator
from pipeline.errors import ErrorCode, PermanentError, PipelineError, TransientError
from pipeline.service.logs import get_logger

log = get_logger(__name__)

#: A file that has changed under us so often is not begun again.
MAX_CHANGES: Final = 2
#: Answers to a request for a part that say nothing of the whole.
_NO_WHOLE: Final = (HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)


@dataclass
class DownloadAttempts:
    """Tries one way after the other."""

    line: HttpClient
    target: Path
    sources: Sources
    remains: ResumeState
    reporter: ProgressReporter
    checksum: Checksum | None
    durable: bool
    ranged: bool = field(default=True, init=False)
    """Whether parts may be asked for."""
    begun: Identity | None = field(default=None, init=False)
    """What there is a part of already."""
    changes: int = field(default=0, init=False)
    corruptions: int = field(default=0, init=False)

    def run(self) -> StreamResult:
        """Until one way leads to the end, or the last one fails."""
        try:
            self.begun = self.remains.recall(self.line.watchdog.raise_if_fired)
            arrived = None
            while arrived is None:
                arrived = self._try()
        except BaseException as error:
            self.remains.keep = not _is_final(error)
            raise
        return arrived

    def _try(self) -> StreamResult | None:
        """One attempt; None if another one is worth it."""
        try:
            return self._attempt(self.sources.current)
        except SourceChangedError:
            self._has_changed(self.sources.current)
        except RangesLostError:
            self.ranged = False
            self._forget()
        except (PermanentError, TransientError) as error:
            self._has_failed(error)
        return None

    def _attempt(self, source: Source) -> StreamResult | None:
        gap = self._gap()
        if self.begun and self.remains.file and not gap:
            return self._complete(self.begun, self.remains.file)
        with self.line.approach(source) as approach:
            started = time.monotonic()
            approach.connect()
            connected = time.monotonic()
            exchange = approach.open(self._conditions(gap))
            latency = Latency(connected - started, time.monotonic() - connected)
        with exchange:
            part = part_of(exchange) if self.ranged else None
            if part and self._fits(exchange, part, gap):
                return self._assemble(exchange, part, latency)
            if self.ranged and exchange.response.status_code in _NO_WHOLE:
                # Nothing that can be gone on from: once more, without what we have, and then without asking for parts.
                self.ranged = self.begun is not None
                self._forget()
                return None
            head = read_head(exchange.response, source.subject, max_bytes=self.line.limits.max_bytes)
            return self._stream(exchange, head)

    def _gap(self) -> ByteRange | None:
        """What is missing first, of what was begun."""
        return next(missing_ranges(self.begun.total, self.remains.spans), None) if self.begun else None

    def _conditions(self, gap: ByteRange | None) -> dict[str, str]:
        if not self.ranged:
            return {}
        if self.begun is None or gap is None:
            return {"Range": "bytes=0-"}
        version = Validator(self.begun.etag, self.begun.modified) if self.checksum is None else Validator()
        return {"Range": f"bytes={gap.start}-{gap.end - 1}", **version.conditions(True)}

    def _fits(self, exchange: ResponseStream, part: ContentRange, gap: ByteRange | None) -> bool:
        """Whether the answer is the whole file, or all of the gap and of the file that was begun."""
        if self.begun is None or gap is None:
            return (part.start, part.end) == (0, part.total)
        version = Validator(self.begun.etag, self.begun.modified)
        same = self.checksum is not None or version.compare(exchange.response.headers) is Agreement.SAME
        return same and part == ContentRange(gap.start, gap.end, self.begun.total)

    def _assemble(self, exchange: ResponseStream, part: ContentRange, latency: Latency) -> StreamResult:
        source, headers = exchange.source, exchange.response.headers
        head = read_part_head(exchange.response, source.subject, part.total, max_bytes=self.line.limits.max_bytes)
        source.validator, source.place = Validator.of(headers), exchange.place
        checksum = self.checksum or announced(headers, whole=part.end - part.start == part.total)
        if not source.validator and checksum is None:
            return self._stream(exchange, head)  # nothing would tell whether another part is of the same file
        file = self.remains.file or self.remains.begin(part.total, source.validator)
        return self._assembly(checksum, part.total, latency).run((exchange, part.end), head, part.total, file)

    def _complete(self, begun: Identity, file: ScatteredFile) -> StreamResult:
        """Nothing is missing: the process died between the last byte and the end."""
        url = self.sources.current.url.url
        head = Head.without_response(url, begun.total)
        return self._assembly(self.checksum, begun.total, Latency()).run(None, head, begun.total, file)

    def _assembly(self, checksum: Checksum | None, total: int, latency: Latency) -> Assembly:
        self.reporter.total = total
        return Assembly(self.line, self.sources, self.remains, self.reporter, checksum, latency)

    def _stream(self, exchange: ResponseStream, head: Head) -> StreamResult:
        self._forget()
        self.reporter.total = head.length
        return stream(
            exchange,
            head,
            self.target,
            self.line.limits,
            self.reporter,
            checksum=self.checksum,
            durable=self.durable,
        )

    def _forget(self) -> None:
        self.begun = None
        self.remains.forget()
        self.reporter.resumed = 0

    def _has_changed(self, source: Source) -> None:
        self.changes += 1
        log.warning("download_source_changed", url=source.subject)
        if self.changes > MAX_CHANGES:
            raise source_unstable(source.subject)
        source.place, source.if_range = source.url, True
        self._forget()

    def _has_failed(self, error: PipelineError) -> None:
        self.line.watchdog.raise_if_fired()
        source = self.sources.current
        corrupt = error.code is ErrorCode.SOURCE_CORRUPT
        self.corruptions += corrupt
        if self.sources.is_last(source) and not (corrupt and self.corruptions == 1):
            raise error
        log.warning("download_source_failed", url=source.subject, code=error.code)
        self.sources.drop(source)
        if corrupt:
            self._forget()


def _is_final(error: BaseException) -> bool:
    """Whether what there is of the file is of no use, or in the way."""
    codes = (ErrorCode.SOURCE_CORRUPT, ErrorCode.DISK_FULL)
    return isinstance(error, PermanentError) or (isinstance(error, PipelineError) and error.code in codes)
