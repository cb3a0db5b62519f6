"""Correct HTTP responses to range requests and conditions, as in RFC 9110 sections 13 and 14."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from enum import Enum, auto
from urllib.parse import urlsplit

#: A single range; a request for several is answered with the whole file, which a server may always do.
_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Request:
    """A request of a client."""

    method: str
    target: str
    headers: Mapping[str, str]
    """By lower-case name."""

    @property
    def run(self) -> str:
        """The name of the run: the first segment of the path."""
        return urlsplit(self.target).path.strip("/").partition("/")[0]

    @property
    def query(self) -> str:
        return urlsplit(self.target).query


@dataclass(frozen=True, slots=True)
class ServedFile:
    """The first ``size`` bytes of an open file, under one validator."""

    descriptor: int
    size: int
    etag: str
    """Strong, quotes included."""
    modified: int
    """s since the epoch."""


@dataclass(frozen=True, slots=True)
class AnswerRange:
    """A range of an open file, sent at ``rate`` bytes/s unless that is zero."""

    descriptor: int
    offset: int
    length: int
    rate: float = 0.0


class After(Enum):
    """The fate of the connection after the last byte."""

    KEEP = auto()
    CLOSE = auto()
    HOLD = auto()
    """Keep the connection open and silent until the client closes it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response. ``body`` is sent as it is, even if it contradicts the headers."""

    status: int
    headers: dict[str, str]
    span: AnswerRange | None = None
    """The requested part of the source, if any."""
    body: Iterable[AnswerRange | bytes] = ()
    after: After = After.KEEP


def plan(request: Request, source: ServedFile, *, ranges: bool = True) -> Answer:
    """Return the response to a request for ``source``, without range support if ``ranges`` is False."""
    if _precondition_failed(request, source):
        return Answer(412, {"Content-Length": "0"})
    requested = _requested_range(request, source) if ranges else None
    if requested is None:
        answer = _content(source, 200, 0, source.size)
    elif requested[0] >= requested[1]:
        return Answer(416, {"Content-Range": f"bytes */{source.size}", "Content-Length": "0"})
    else:
        answer = _content(source, 206, *requested)
        answer.headers["Content-Range"] = f"bytes {requested[0]}-{requested[1] - 1}/{source.size}"
    if not ranges:
        del answer.headers["Accept-Ranges"]
    return Answer(answer.status, answer.headers) if request.method == "HEAD" else answer


def _content(source: ServedFile, status: int, start: int, end: int) -> Answer:
    headers = {
        "Content-Type": "audio/wav",
        "Content-Length": str(end - start),
        "Accept-Ranges": "bytes",
        "ETag": source.etag,
        "Last-Modified": formatdate(source.modified, usegmt=True),
    }
    span = AnswerRange(source.descriptor, start, end - start)
    return Answer(status, headers, span, (span,))


def _precondition_failed(request: Request, source: ServedFile) -> bool:
    match = request.headers.get("if-match")
    if match is not None:
        return match.strip() != "*" and source.etag not in (tag.strip() for tag in match.split(","))
    since = request.headers.get("if-unmodified-since")
    return since is not None and parsedate_to_datetime(since).timestamp() < source.modified


def _requested_range(request: Request, source: ServedFile) -> tuple[int, int] | None:
    """Return start and end (exclusive) of the requested range; None for the whole file."""
    matched = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if matched is None or not any(matched.groups()):
        return None
    condition = request.headers.get("if-range")
    if condition is not None and condition.strip() not in (source.etag, formatdate(source.modified, usegmt=True)):
        return None
    first, last = matched.groups()
    if not first:
        return max(0, source.size - int(last)), source.size
    return int(first), min(int(last) + 1 if last else source.size, source.size)
