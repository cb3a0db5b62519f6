"""The headers of retries and of dead letters: the history of a message. Written and read only here."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.errors import ErrorCode, PipelineError
from pipeline.transport.protocol import NOT_BEFORE, Message

ORIGINAL_TOPIC = "original-topic"
ATTEMPTS = "attempts"
CRASHES = "crashes"
FIRST_FAILED_AT = "first-failed-at"
UNREAD_SINCE = "unread-since"
LAST_ERROR = "last-error"
ERROR_KIND, ERROR_CODE, ERROR_MESSAGE, FAILED_AT = "error-kind", "error-code", "error-message", "failed-at"
ORIGINAL_BYTES = "original-bytes"

#: A dead letter that exceeds the broker's limit keeps this much of its key (characters) and its value (bytes).
KEPT_KEY, KEPT_VALUE = 256, 100_000

_RETRY_HEADERS = (ORIGINAL_TOPIC, ATTEMPTS, CRASHES, FIRST_FAILED_AT, UNREAD_SINCE, LAST_ERROR, NOT_BEFORE)
_DEAD_LETTER_HEADERS = (ORIGINAL_TOPIC, ERROR_KIND, ERROR_CODE, ERROR_MESSAGE, FAILED_AT)


@dataclass(frozen=True, slots=True)
class RetryHeaders:
    """The history of a message before its present topic."""

    topic: str
    """The topic in which it was first published."""
    attempts: int = 0
    """Tries that transient failures have spent."""
    crashes: int = 0
    """Worker processes that it crashed before it was moved to a retry topic."""
    first_failed_at: float | None = None
    """s since the epoch"""
    unread_since: float | None = None
    """The time at which a reader first found that it needs a newer version, s since the epoch."""

    @classmethod
    def from_message(cls, message: Message) -> RetryHeaders:
        """Read the headers of ``message``. A missing or malformed header gives the default."""
        headers = message.headers
        return cls(
            topic=headers.get(ORIGINAL_TOPIC, b"").decode("utf-8", "replace") or message.topic,
            attempts=int(_number(headers, ATTEMPTS) or 0),
            crashes=int(_number(headers, CRASHES) or 0),
            first_failed_at=_number(headers, FIRST_FAILED_AT),
            unread_since=_number(headers, UNREAD_SINCE),
        )


def retry_message(
    message: Message, retry_topic: str, delay: float, error: PipelineError, *, attempts: int, crashes: int
) -> Message:
    """Return ``message`` addressed to a retry topic, to be delivered again in ``delay`` s.

    A message that could not be read yet keeps the time since when; any other error shows that it was read.
    """
    history, now = RetryHeaders.from_message(message), time.time()
    added = {
        ORIGINAL_TOPIC: history.topic,
        ATTEMPTS: str(attempts),
        CRASHES: str(crashes),
        FIRST_FAILED_AT: f"{history.first_failed_at or now:.3f}",
        LAST_ERROR: f"{error.code}: {error.message}",
        NOT_BEFORE: str(round((now + delay) * 1000)),
    }
    if error.code is ErrorCode.MESSAGE_NEWER:
        added[UNREAD_SINCE] = f"{history.unread_since or now:.3f}"
    kept = {name: value for name, value in message.headers.items() if name != UNREAD_SINCE}
    headers = kept | {name: value.encode() for name, value in added.items()}
    return Message(retry_topic, message.key, message.value, headers)


def dead_letter(topic: str, message: Message, error: PipelineError) -> Message:
    """Return ``message`` with its raw bytes, addressed to ``topic``; headers give its origin and the error."""
    added = {
        ORIGINAL_TOPIC: RetryHeaders.from_message(message).topic,
        ERROR_KIND: error.kind,
        ERROR_CODE: error.code,
        ERROR_MESSAGE: error.message,
        FAILED_AT: f"{time.time():.3f}",
    }
    headers = {name: value for name, value in message.headers.items() if name != NOT_BEFORE}
    headers |= {name: value.encode() for name, value in added.items()}
    return Message(topic, message.key, message.value, headers)


def truncate_dead_letter(letter: Message) -> Message:
    """Cut a dead letter to a size that every engine takes; a header gives the original length of its value."""
    headers = {name: letter.headers[name] for name in _DEAD_LETTER_HEADERS}
    headers[ORIGINAL_BYTES] = str(len(letter.value)).encode()
    return Message(letter.topic, letter.key[:KEPT_KEY], letter.value[:KEPT_VALUE], headers)


def original_headers(headers: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the headers that a message had when it was first published."""
    added = {*_RETRY_HEADERS, *_DEAD_LETTER_HEADERS, ORIGINAL_BYTES}
    return {name: value for name, value in headers.items() if name not in added}


def _number(headers: Mapping[str, bytes], name: str) -> float | None:
    """Parse a finite number ≥ 0; None for anything else, since other programs may have written the header."""
    try:
        number = float(headers[name])
    except (KeyError, ValueError):
        return None
    return number if 0 <= number < math.inf else None
