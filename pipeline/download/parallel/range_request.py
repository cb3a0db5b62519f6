"""Asking for a part of a file, and whether the answer is that part of that file."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from pipeline.download.http.request import HttpClient, PendingRequest, ResponseStream
from pipeline.download.http.response import check_status, declared_length, read_part_head
from pipeline.download.http.watchdog import Branch
from pipeline.download.parallel.range_allocator import ByteRange
from pipeline.download.sources import RangesLostError, Source, SourceChangedError
from pipeline.download.validators import Agreement, ContentRange, Validator
from pipeline.errors import PermanentError, TransientError


def ask(
    line: HttpClient,
    source: Source,
    span: ByteRange,
    total: int,
    *,
    verified: bool,
    on_start: Callable[[Branch], None] = lambda _: None,
    approach: PendingRequest | None = None,
) -> tuple[ResponseStream, int]:
    """The answer with ``span`` of a file of ``total`` bytes, from its start on, and where it ends (maybe earlier).

    ``verified``: the whole file's hash will be checked, so that bytes of which the source does not say what version
    they belong to are welcome. ``on_start`` as in ``HttpClient.open``. ``approach``: to ``source``, to be used.

    Raises SourceChangedError, RangesLostError, and what ``HttpClient.open`` raises.
    """
    headers = {"Range": f"bytes={span.start}-{span.end - 1}", **_version(source, verified).conditions(source.if_range)}
    exchange = _open(line, source, headers, on_start, approach)
    try:
        end = _check(exchange, source, span, total, verified=verified)
        read_part_head(exchange.response, source.subject, total, max_bytes=line.limits.max_bytes)
    except BaseException:
        exchange.close()
        raise
    source.validator = source.validator or Validator.of(exchange.response.headers)
    source.place = exchange.place
    return exchange, end


def _version(source: Source, verified: bool) -> Validator:
    """The version to insist on. After a first change, the hash alone decides: servers behind one name may disagree on
    the tags of one file.
    """
    return Validator() if source.validator is None or (verified and source.if_range) else source.validator


def part_of(exchange: ResponseStream) -> ContentRange | None:
    """Which part an answer with status 206 holds; None if that cannot be told or contradicts its length."""
    part = ContentRange.of(exchange.response.headers)
    if exchange.response.status_code != HTTPStatus.PARTIAL_CONTENT or part is None:
        return None
    length = declared_length(exchange.response, exchange.source.subject)
    return part if length in (None, part.end - part.start) else None


def _open(
    line: HttpClient,
    source: Source,
    headers: dict[str, str],
    on_start: Callable[[Branch], None],
    approach: PendingRequest | None,
) -> ResponseStream:
    place = source.place
    exchange: ResponseStream | None = None
    try:
        exchange = _over(approach, headers) or line.open(source, headers, on_start)
        if place is source.url or exchange.response.status_code < HTTPStatus.BAD_REQUEST:
            return exchange
        if exchange.response.status_code == HTTPStatus.PRECONDITION_FAILED:
            return exchange
    except PermanentError:
        if place is source.url:
            raise
    # Links that redirects lead to may be good for a while only: ask for a new one.
    if exchange is not None:
        exchange.close()
    source.place = source.url
    return line.open(source, headers, on_start)


def _over(approach: PendingRequest | None, headers: dict[str, str]) -> ResponseStream | None:
    """The answer over a connection that there is. None if there is none, or the other side has just closed it."""
    if approach is None:
        return None
    try:
        return approach.open(headers)
    except TransientError:
        if not approach.warm:
            raise
        approach.close()
        return None


def _check(exchange: ResponseStream, source: Source, span: ByteRange, total: int, *, verified: bool) -> int:
    status, headers = exchange.response.status_code, exchange.response.headers
    agreement = _version(source, verified).compare(headers)
    if status == HTTPStatus.PRECONDITION_FAILED or (status < HTTPStatus.BAD_REQUEST and agreement is Agreement.CHANGED):
        raise SourceChangedError
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise SourceChangedError
    if status == HTTPStatus.PARTIAL_CONTENT:
        return _check_part(exchange, span, total, known=verified or agreement is Agreement.SAME)
    check_status(exchange.response, source.subject)
    if declared_length(exchange.response, source.subject) not in (None, total):
        raise SourceChangedError
    raise RangesLostError


def _check_part(exchange: ResponseStream, span: ByteRange, total: int, *, known: bool) -> int:
    part = part_of(exchange)
    if part is not None and part.total != total:
        raise SourceChangedError
    if part is None or not known or part.start != span.start or part.end > span.end:
        raise RangesLostError
    return part.end
