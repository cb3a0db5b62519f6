"""Tries download strategies until one succeeds: in parts or as one stream, resumed or new, from the next source."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final

from pipeline.download.checksum import Checksum, announced_checksum
from pipeline.download.http.request import HttpClient, ResponseStream
from pipeline.download.http.response import Head, read_head, read_part_head, source_unstable
from pipeline.download.journal import Identity
from pipeline.download.parallel.range_allocator import ByteRange, missing_ranges
from pipeline.download.parallel.range_request import response_range
from pipeline.download.parallel.scheduler import ParallelDownload
from pipeline.download.parallel.throughput import Latency
from pipeline.download.progress import ProgressReporter
from pipeline.download.resume import ResumeState
from pipeline.download.single_stream import StreamResult, save_stream
from pipeline.download.sources import RangesLostError, Source, SourceChangedError, Sources
from pipeline.download.validators import Agreement, ContentRange, Validator
from pipeline.errors import ErrorCode, PermanentError, PipelineError, TransientError
from pipeline.service.logs import get_logger

log = get_logger(__name__)

#: A file that changes more often than this during one download is given up.
MAX_CHANGES: Final = 2
#: Responses to a range request that do not describe the whole file.
_PARTIAL: Final = (HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)


@dataclass
class DownloadAttempts:
    """The attempts of one download."""

    client: HttpClient
    target: Path
    sources: Sources
    resume_state: ResumeState
    reporter: ProgressReporter
    checksum: Checksum | None
    durable: bool
    ranged: bool = field(default=True, init=False)
    """Whether to send range requests."""
    resumed: Identity | None = field(default=None, init=False)
    """The download that is being resumed."""
    changes: int = field(default=0, init=False)
    corruptions: int = field(default=0, init=False)

    def run(self) -> StreamResult:
        """Try until one attempt succeeds. Raises the errors of ``download``."""
        try:
            self.resumed = self.resume_state.load(self.client.watchdog.raise_if_fired)
            result = None
            while result is None:
                result = self._try()
        except BaseException as error:
            # Received bytes are useless after a permanent error, and in the way on a full disk.
            useless = isinstance(error, PermanentError) or (
                isinstance(error, PipelineError) and error.code in (ErrorCode.SOURCE_CORRUPT, ErrorCode.DISK_FULL)
            )
            self.resume_state.keep = not useless
            raise
        return result

    def _try(self) -> StreamResult | None:
        """Make one attempt; None if another one is worthwhile."""
        source = self.sources.current
        try:
            return self._attempt(source)
        except SourceChangedError:
            self.changes += 1
            log.warning("download_source_changed", url=source.subject)
            if self.changes > MAX_CHANGES:
                raise source_unstable(source.subject) from None
            source.location, source.if_range = source.url, True
            self._restart()
        except RangesLostError:
            self.ranged = False
            self._restart()
        except (PermanentError, TransientError) as error:
            self._on_failure(error)
        return None

    def _attempt(self, source: Source) -> StreamResult | None:
        gap = None
        if self.resumed and self.resume_state.file:
            gap = next(missing_ranges(self.resumed.total, self.resume_state.verified_ranges), None)
            if gap is None:  # the process ended after the last byte, before the file was renamed
                head = Head.without_response(source.url.url, self.resumed.total)
                return self._assemble(None, head, self.resumed.total, Validator(), self.checksum, Latency())
        with self.client.prepare(source) as request:
            started = time.monotonic()
            request.connect()
            connected = time.monotonic()
            stream = request.send(self._conditions(gap))
            latency = Latency(connected - started, time.monotonic() - connected)
        with stream:
            part = response_range(stream) if self.ranged else None
            if part and self._fits(stream, part, gap):
                return self._download_parts(stream, part, latency)
            if self.ranged and stream.response.status_code in _PARTIAL:
                # Not usable. Try again without the resumed state, and then without range requests.
                self.ranged = self.resumed is not None
                self._restart()
                return None
            return self._save(
                stream, read_head(stream.response, source.subject, max_bytes=self.client.limits.max_bytes)
            )

    def _conditions(self, gap: ByteRange | None) -> dict[str, str]:
        if not self.ranged:
            return {}
        if self.resumed is None or gap is None:
            return {"Range": "bytes=0-"}
        version = Validator(self.resumed.etag, self.resumed.modified) if self.checksum is None else Validator()
        return {"Range": f"bytes={gap.start}-{gap.end - 1}", **version.conditions(True)}

    def _fits(self, stream: ResponseStream, part: ContentRange, gap: ByteRange | None) -> bool:
        """Return whether the response is the whole file, or exactly the gap in the resumed version."""
        if self.resumed is None or gap is None:
            return (part.start, part.end) == (0, part.total)
        version = Validator(self.resumed.etag, self.resumed.modified)
        same = self.checksum is not None or version.compare(stream.response.headers) is Agreement.SAME
        return same and part == ContentRange(gap.start, gap.end, self.resumed.total)

    def _download_parts(self, stream: ResponseStream, part: ContentRange, latency: Latency) -> StreamResult:
        source, headers, total = stream.source, stream.response.headers, part.total
        head = read_part_head(stream.response, source.subject, total, max_bytes=self.client.limits.max_bytes)
        source.validator, source.location = Validator.of(headers), stream.location
        checksum = self.checksum or announced_checksum(headers, whole_file=part.end - part.start == total)
        if not source.validator and checksum is None:
            return self._save(stream, head)  # parts of different versions could not be distinguished
        return self._assemble((stream, part.end), head, total, source.validator, checksum, latency)

    def _assemble(
        self,
        first: tuple[ResponseStream, int] | None,
        head: Head,
        total: int,
        validator: Validator,
        checksum: Checksum | None,
        latency: Latency,
    ) -> StreamResult:
        file = self.resume_state.file or self.resume_state.begin(total, validator)
        run = ParallelDownload(
            self.client, self.sources, self.resume_state, file, total, checksum, self.reporter, latency
        )
        return run.run(first, head)

    def _save(self, stream: ResponseStream, head: Head) -> StreamResult:
        """Download as one stream."""
        self._restart()
        self.reporter.total = head.length
        limits, checksum = self.client.limits, self.checksum
        return save_stream(stream, head, self.target, limits, self.reporter, checksum=checksum, durable=self.durable)

    def _restart(self) -> None:
        """Discard all progress."""
        self.resumed = None
        self.resume_state.reset()
        self.reporter.resumed = 0

    def _on_failure(self, error: PipelineError) -> None:
        """Raise ``error``, or select the next source; a wrong hash allows one more attempt at the last source."""
        self.client.watchdog.raise_if_fired()
        source = self.sources.current
        corrupt = error.code is ErrorCode.SOURCE_CORRUPT
        self.corruptions += corrupt
        if self.sources.is_last(source) and not (corrupt and self.corruptions == 1):
            raise error
        log.warning("download_source_failed", url=source.subject, code=error.code)
        self.sources.drop(source)
        if corrupt:
            self._restart()
