"""What the head of a response says, read strictly."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import requests

from pipeline.errors import ErrorCode, PermanentError, PipelineError, TransientError

#: Longest ``Retry-After`` that is believed, s.
MAX_RETRY_AFTER = 3600.0

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MISSING = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
_PASSING = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_EMPTY = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT})
#: 203 is a 200 that a proxy has touched.
_WHOLE = frozenset({HTTPStatus.OK, HTTPStatus.NON_AUTHORITATIVE_INFORMATION})

#: ``int`` would take signs, underscores and digits of other scripts. 18 digits cannot overflow anything.
_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,63}/[a-z0-9][a-z0-9!#$&^_.+-]{0,63}", re.ASCII)

#: The only extensions that a hint may have; nothing else from outside gets near a file name.
_AUDIO = {
    *("aac", "ac3", "aif", "aiff", "amr", "ape", "caf", "flac", "m4a", "m4b", "mka"),
    *("mp2", "mp3", "oga", "ogg", "opus", "wav", "wma", "wv"),
}
_VIDEO = {"m4v", "mkv", "mov", "mp4", "ogv", "webm"}
_EXTENSIONS = frozenset(_AUDIO | _VIDEO)
_EXTENSION_OF_TYPE = {
    "audio/aac": "aac",
    "audio/aiff": "aiff",
    "audio/flac": "flac",
    "audio/mp4": "m4a",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg",
    "audio/opus": "opus",
    "audio/wav": "wav",
    "audio/wave": "wav",
    "audio/webm": "webm",
    "audio/x-aiff": "aiff",
    "audio/x-flac": "flac",
    "audio/x-m4a": "m4a",
    "audio/x-wav": "wav",
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "video/webm": "webm",
}


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of a body before it comes."""

    length: int | None
    """Bytes that were announced; None if the server did not say."""
    content_type: str | None
    """Media type in lower case without parameters; what the server says, which may be wrong."""
    extension: str | None
    """Of the URL or the media type, without a dot; a hint, from a fixed list."""

    @classmethod
    def unasked(cls, url: str, length: int) -> Head:
        """What is known of a file without an answer."""
        return cls(length, None, _extension(url, None))


def redirect_location(response: requests.Response) -> str | None:
    """The ``Location`` of a redirect; None for every other response."""
    location = response.headers.get("Location")
    if response.status_code not in _REDIRECTS or not location:
        return None
    # http.client reads headers as Latin-1; servers that do not encode their paths send UTF-8.
    try:
        return location.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return location


def read_head(response: requests.Response, subject: str, *, max_bytes: int) -> Head:
    """Check status and headers of a response whose body is wanted whole. Raises PermanentError or TransientError."""
    check_status(response, subject)
    return _checked(response, subject, declared_length(response, subject), max_bytes)


def read_part_head(response: requests.Response, subject: str, total: int, *, max_bytes: int) -> Head:
    """The same of a response that is part of a file of ``total`` bytes, its range checked already."""
    return _checked(response, subject, total, max_bytes)


def _checked(response: requests.Response, subject: str, length: int | None, max_bytes: int) -> Head:
    _check_codings(response, subject)
    if length is not None and length > max_bytes:
        raise source_too_large(subject, max_bytes)
    if length == 0:
        raise source_empty(subject)
    content_type = _media_type(response)
    return Head(length, content_type, _extension(response.url, content_type))


def source_too_large(subject: str, max_bytes: int) -> PermanentError:
    return PermanentError(f"{subject} is larger than {max_bytes} bytes", code=ErrorCode.SOURCE_TOO_LARGE)


def senseless_length(subject: str) -> PermanentError:
    return PermanentError(f"{subject} is announced with a length that makes no sense", code=ErrorCode.SOURCE_PROTOCOL)


def incomplete(subject: str) -> TransientError:
    return TransientError(f"{subject} ended before it was complete", code=ErrorCode.SOURCE_INCOMPLETE)


def source_corrupt(subject: str) -> TransientError:
    return TransientError(f"{subject} does not have the checksum that it should have", code=ErrorCode.SOURCE_CORRUPT)


def unstable(subject: str) -> TransientError:
    return TransientError(f"{subject} keeps changing", code=ErrorCode.SOURCE_INCOMPLETE)


def source_empty(subject: str) -> PermanentError:
    return PermanentError(f"{subject} is empty", code=ErrorCode.AUDIO_EMPTY)


def retry_after(value: str | None, now: float) -> float | None:
    """The delay (s, 0 to an hour) that a ``Retry-After`` header asks for; None if it says nothing usable.

    Either form of RFC 9110 section 10.2.3: seconds, or a date. ``now``: s since the epoch.
    """
    if value is None:
        return None
    if _LENGTH.fullmatch(value.strip()):
        return min(float(value), MAX_RETRY_AFTER)
    try:
        date = parsedate_to_datetime(value)
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def check_status(response: requests.Response, subject: str) -> None:
    """Raise PermanentError or TransientError unless the answer is the whole file."""
    status = response.status_code
    if status in _WHOLE:
        return
    if status in _EMPTY:
        raise source_empty(subject)
    raise _status_error(status, subject, retry_after(response.headers.get("Retry-After"), time.time()))


def _status_error(status: int, subject: str, delay: float | None) -> PipelineError:
    what = f"{subject} answered with status {status}"
    if status in _MISSING:
        return PermanentError(what, code=ErrorCode.SOURCE_NOT_FOUND)
    if status in _PASSING or 500 <= status <= 599:
        return TransientError(what, code=ErrorCode.SOURCE_UNAVAILABLE, retry_after=delay)
    if 400 <= status <= 499:
        return PermanentError(what, code=ErrorCode.SOURCE_REFUSED)
    # 206 to a request without a range, 202 without the file, 304 without a condition, 103 and the like.
    return PermanentError(f"{what}, which does not fit the request", code=ErrorCode.SOURCE_PROTOCOL)


def _check_codings(response: requests.Response, subject: str) -> None:
    """Only bytes as they are, whole or in chunks: decoding would let a few of them become very many."""
    content = response.headers.get("Content-Encoding", "").strip().lower()
    transfer = response.headers.get("Transfer-Encoding", "").strip().lower()
    if content not in ("", "identity") or transfer not in ("", "chunked"):
        raise PermanentError(
            f"{subject} is sent with an encoding that was not asked for", code=ErrorCode.SOURCE_PROTOCOL
        )


def declared_length(response: requests.Response, subject: str) -> int | None:
    """The announced length. RFC 9112 section 6.3: chunks overrule it, and repetitions must agree."""
    if "Transfer-Encoding" in response.headers:
        return None
    value = response.headers.get("Content-Length")
    if value is None:
        return None
    lengths = {item.strip() for item in value.split(",")}
    length = lengths.pop()
    if lengths or not _LENGTH.fullmatch(length):
        raise senseless_length(subject)
    return int(length)


def _media_type(response: requests.Response) -> str | None:
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return media_type if _MEDIA_TYPE.fullmatch(media_type) else None


def _extension(url: str, content_type: str | None) -> str | None:
    suffix = PurePosixPath(urlsplit(url).path).suffix.removeprefix(".").lower()
    return suffix if suffix in _EXTENSIONS else _EXTENSION_OF_TYPE.get(content_type or "")
