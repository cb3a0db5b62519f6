"""What an honest HTTP server answers: ranges and conditions, as in RFC 9110 sections 13 and 14."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from enum import Enum, auto
from urllib.parse import urlsplit

#: One range; several in one request are answered with the whole file, which a server may always do.
_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent."""

    method: str
    target: str
    headers: Mapping[str, str]
    """Names in lower case."""

    @property
    def run(self) -> str:
        """The first word of the path."""
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
    """Bytes of an open file, sent at ``rate`` bytes/s if that is not zero."""

    descriptor: int
    offset: int
    length: int
    rate: float = 0.0


class After(Enum):
    """What becomes of the connection when the last byte has been sent."""

    KEEP = auto()
    CLOSE = auto()
    HOLD = auto()
    """Open and silent, until the client goes away."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response. ``body`` is what is sent, whatever the headers announce."""

    status: int
    headers: dict[str, str]
    span: AnswerRange | None = None
    """The part of the source that was asked for; None: nothing of it."""
    body: Iterable[AnswerRange | bytes] = ()
    after: After = After.KEEP


def plan(request: Request, source: ServedFile, *, ranges: bool = True) -> Answer:
    """The answer to a request for ``source``; with ``ranges`` off, of a server that has none."""
    if _precondition_failed(request, source):
        return Answer(412, {"Content-Length": "0"})
    wanted = _wanted(request, source) if ranges else None
    if wanted is None:
        answer = _content(source, 200, 0, source.size)
    elif wanted[0] >= wanted[1]:
        return Answer(416, {"Content-Range": f"bytes */{source.size}", "Content-Length": "0"})
    else:
        answer = _content(source, 206, *wanted)
        answer.headers["Content-Range"] = f"bytes {wanted[0]}-{wanted[1] - 1}/{source.size}"
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


def _wanted(request: Request, source: ServedFile) -> tuple[int, int] | None:
    """First byte, and the one after the last; None for the whole file."""
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
