"""Range requests for one version of a file, and the checks of their responses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from pipeline.download.http.request import HttpClient, PendingRequest, ResponseStream
from pipeline.download.http.response import check_status, declared_length, read_part_head
from pipeline.download.http.watchdog import Branch
from pipeline.download.parallel.range_allocator import ByteRange
from pipeline.download.sources import RangesLostError, Source, SourceChangedError
from pipeline.download.validators import Agreement, ContentRange, Validator
from pipeline.errors import PermanentError, TransientError


def response_range(stream: ResponseStream) -> ContentRange | None:
    """Return the range of a 206 response; None for another status, or if it is malformed or contradicts the length."""
    part = ContentRange.of(stream.response.headers)
    if stream.response.status_code != HTTPStatus.PARTIAL_CONTENT or part is None:
        return None
    length = declared_length(stream.response, stream.source.subject)
    return part if length in (None, part.end - part.start) else None


@dataclass(frozen=True, slots=True)
class RangeClient:
    """Requests ranges of one file of ``total`` bytes."""

    client: HttpClient
    total: int
    verified: bool
    """The hash of the whole file will be checked, so responses that name no version are accepted."""
    keep_alive: bool
    """A connection serves one range after the other."""

    def prepare(self, source: Source, on_start: Callable[[Branch], None]) -> PendingRequest:
        """Return a request that is not sent yet, for ``request`` to use."""
        return self.client.prepare(source, on_start, keep_alive=self.keep_alive)

    def request(
        self,
        source: Source,
        span: ByteRange,
        on_start: Callable[[Branch], None],
        pending: PendingRequest | None = None,
    ) -> tuple[ResponseStream, int]:
        """Return a response that begins with the first byte of ``span``, and the position of its end.

        A server may send less than requested. ``pending`` is a prepared request to use.

        Raises SourceChangedError, RangesLostError, and the errors of ``download``.
        """
        version = source.validator or Validator()
        if self.verified and source.if_range:
            # After the first change of a file with a known hash, only the hash decides: servers behind one name may
            # disagree on the tags of one file.
            version = Validator()
        headers = {"Range": f"bytes={span.start}-{span.end - 1}", **version.conditions(source.if_range)}
        stream = self._send(source, headers, on_start, pending)
        try:
            end = self._check(stream, version, span)
            read_part_head(stream.response, source.subject, self.total, max_bytes=self.client.limits.max_bytes)
        except BaseException:
            stream.close()
            raise
        source.validator = source.validator or Validator.of(stream.response.headers)
        source.location = stream.location
        return stream, end

    def _send(
        self,
        source: Source,
        headers: dict[str, str],
        on_start: Callable[[Branch], None],
        pending: PendingRequest | None,
    ) -> ResponseStream:
        redirected = source.location is not source.url
        stream = None
        try:
            stream = _send_pending(pending, headers) or self._send_new(source, headers, on_start)
            status = stream.response.status_code
            if not redirected or status < HTTPStatus.BAD_REQUEST or status == HTTPStatus.PRECONDITION_FAILED:
                return stream
        except PermanentError:
            if not redirected:
                raise
        # The target of a redirect may be valid for a limited time: follow the redirects again.
        if stream is not None:
            stream.close()
        source.location = source.url
        return self._send_new(source, headers, on_start)

    def _send_new(self, source: Source, headers: dict[str, str], on_start: Callable[[Branch], None]) -> ResponseStream:
        with self.prepare(source, on_start) as request:
            return request.send(headers)

    def _check(self, stream: ResponseStream, version: Validator, span: ByteRange) -> int:
        response, subject = stream.response, stream.source.subject
        status, agreement = response.status_code, version.compare(response.headers)
        if status in (HTTPStatus.PRECONDITION_FAILED, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
            raise SourceChangedError
        if status < HTTPStatus.BAD_REQUEST and agreement is Agreement.CHANGED:
            raise SourceChangedError
        if status == HTTPStatus.PARTIAL_CONTENT:
            part = response_range(stream)
            if part is not None and part.total != self.total:
                raise SourceChangedError
            known = self.verified or agreement is Agreement.SAME
            if part is None or not known or part.start != span.start or part.end > span.end:
                raise RangesLostError
            return part.end
        check_status(response, subject)
        if declared_length(response, subject) not in (None, self.total):
            raise SourceChangedError
        raise RangesLostError


def _send_pending(pending: PendingRequest | None, headers: dict[str, str]) -> ResponseStream | None:
    """Send a prepared request. None if there is none, or if the server has closed its connection."""
    if pending is None:
        return None
    try:
        return pending.send(headers)
    except TransientError:
        if not pending.connected:
            raise
        pending.close()
        return None
