"""Strict reading of a response head: status, redirects, lengths, encodings and retry delays."""

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

from pipeline.errors import ErrorCode, PermanentError, TransientError

#: Upper limit of a ``Retry-After``, s.
MAX_RETRY_AFTER = 3600.0

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NOT_FOUND = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
_RETRYABLE = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_EMPTY = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT})
#: 203 is a 200 that a proxy has modified.
_WHOLE = frozenset({HTTPStatus.OK, HTTPStatus.NON_AUTHORITATIVE_INFORMATION})

#: ``int`` would take signs, underscores and digits of other scripts. 18 digits cannot overflow anything.
_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,63}/[a-z0-9][a-z0-9!#$&^_.+-]{0,63}", re.ASCII)

#: The allowlist of extensions: no other text from a source becomes part of a file name.
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
    """The properties of a body, known before it arrives."""

    length: int | None
    """Announced length in bytes; None without one."""
    content_type: str | None
    """Media type in lower case without parameters, unverified."""
    extension: str | None
    """Extension from the URL or the media type, without a dot; a hint from a fixed list."""

    @classmethod
    def without_response(cls, url: str, length: int) -> Head:
        """Return the head of a file for which there is no response."""
        return cls(length, None, _extension(url, None))


def redirect_location(response: requests.Response) -> str | None:
    """Return the ``Location`` of a redirect; None for every other response."""
    location = response.headers.get("Location")
    if response.status_code not in _REDIRECTS or not location:
        return None
    # http.client decodes headers as Latin-1, but servers that do not encode their paths send UTF-8.
    try:
        return location.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return location


def read_head(response: requests.Response, subject: str, *, max_bytes: int) -> Head:
    """Check the head of a response to a request for a whole file. Raises PermanentError or TransientError."""
    check_status(response, subject)
    return _check_head(response, subject, declared_length(response, subject), max_bytes)


def read_part_head(response: requests.Response, subject: str, total: int, *, max_bytes: int) -> Head:
    """Check the head of a response with one range, already checked, of a file of ``total`` bytes."""
    return _check_head(response, subject, total, max_bytes)


def _check_head(response: requests.Response, subject: str, length: int | None, max_bytes: int) -> Head:
    # Decoding is not supported: it would let a few bytes become very many.
    content = response.headers.get("Content-Encoding", "").strip().lower()
    transfer = response.headers.get("Transfer-Encoding", "").strip().lower()
    if content not in ("", "identity") or transfer not in ("", "chunked"):
        raise PermanentError(
            f"{subject} is sent with an encoding that was not asked for", code=ErrorCode.SOURCE_PROTOCOL
        )
    if length is not None and length > max_bytes:
        raise source_too_large(subject, max_bytes)
    if length == 0:
        raise source_empty(subject)
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    content_type = media_type if _MEDIA_TYPE.fullmatch(media_type) else None
    return Head(length, content_type, _extension(response.url, content_type))


def source_too_large(subject: str, max_bytes: int) -> PermanentError:
    """Return the error for a source of more than ``max_bytes`` bytes."""
    return PermanentError(f"{subject} is larger than {max_bytes} bytes", code=ErrorCode.SOURCE_TOO_LARGE)


def invalid_length(subject: str) -> PermanentError:
    """Return the error for an impossible Content-Length or range."""
    return PermanentError(f"{subject} is announced with a length that makes no sense", code=ErrorCode.SOURCE_PROTOCOL)


def source_incomplete(subject: str) -> TransientError:
    """Return the error for a response that ended early."""
    return TransientError(f"{subject} ended before it was complete", code=ErrorCode.SOURCE_INCOMPLETE)


def source_corrupt(subject: str) -> TransientError:
    """Return the error for content with the wrong checksum."""
    return TransientError(f"{subject} does not have the checksum that it should have", code=ErrorCode.SOURCE_CORRUPT)


def source_unstable(subject: str) -> TransientError:
    """Return the error for a source that changes too often during a download."""
    return TransientError(f"{subject} keeps changing", code=ErrorCode.SOURCE_INCOMPLETE)


def source_empty(subject: str) -> PermanentError:
    """Return the error for an empty source."""
    return PermanentError(f"{subject} is empty", code=ErrorCode.AUDIO_EMPTY)


def retry_after(value: str | None, now: float) -> float | None:
    """Return the delay (s, 0 to an hour) of a ``Retry-After`` header; None if it is missing or invalid.

    Accepts both forms of RFC 9110 section 10.2.3: seconds, or a date. ``now``: s since the epoch.
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
    """Raise PermanentError or TransientError unless the response is the whole file."""
    status = response.status_code
    if status in _WHOLE:
        return
    if status in _EMPTY:
        raise source_empty(subject)
    sentence = f"{subject} answered with status {status}"
    if status in _NOT_FOUND:
        raise PermanentError(sentence, code=ErrorCode.SOURCE_NOT_FOUND)
    if status in _RETRYABLE or 500 <= status <= 599:
        delay = retry_after(response.headers.get("Retry-After"), time.time())
        raise TransientError(sentence, code=ErrorCode.SOURCE_UNAVAILABLE, retry_after=delay)
    if 400 <= status <= 499:
        raise PermanentError(sentence, code=ErrorCode.SOURCE_REFUSED)
    # 206 to a request without a range, 202 without the file, 304 without a condition, 103 and the like.
    raise PermanentError(f"{sentence}, which does not fit the request", code=ErrorCode.SOURCE_PROTOCOL)


def declared_length(response: requests.Response, subject: str) -> int | None:
    """Return the announced length in bytes, None without one. Raises PermanentError if it is invalid.

    RFC 9112 section 6.3: chunked encoding overrides it, and repetitions must agree.
    """
    value = response.headers.get("Content-Length")
    if value is None or "Transfer-Encoding" in response.headers:
        return None
    lengths = {item.strip() for item in value.split(",")}
    length = lengths.pop()
    if lengths or not _LENGTH.fullmatch(length):
        raise invalid_length(subject)
    return int(length)


def _extension(url: str, content_type: str | None) -> str | None:
    suffix = PurePosixPath(urlsplit(url).path).suffix.removeprefix(".").lower()
    return suffix if suffix in _EXTENSIONS else _EXTENSION_OF_TYPE.get(content_type or "")
