"""What a message carries about its past: the headers of retries and of dead letters, written and read here alone."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.errors import PipelineError
from pipeline.transport.protocol import NOT_BEFORE, Message

ORIGINAL_TOPIC = "original-topic"
ATTEMPTS = "attempts"
CRASHES = "crashes"
FIRST_FAILED_AT = "first-failed-at"
LAST_ERROR = "last-error"
ERROR_KIND, ERROR_CODE, ERROR_MESSAGE, FAILED_AT = "error-kind", "error-code", "error-message", "failed-at"
ORIGINAL_BYTES = "original-bytes"

#: What is kept of the key (characters) and the value (bytes) of a dead letter that is too large as it is.
KEPT_KEY, KEPT_VALUE = 256, 100_000

_RETRY_HEADERS = (ORIGINAL_TOPIC, ATTEMPTS, CRASHES, FIRST_FAILED_AT, LAST_ERROR, NOT_BEFORE)
_LETTER_HEADERS = (ORIGINAL_TOPIC, ERROR_KIND, ERROR_CODE, ERROR_MESSAGE, FAILED_AT)


@dataclass(frozen=True, slots=True)
class RetryHeaders:
    """What became of a message before it came to where it is."""

    topic: str
    """Where it was published first."""
    attempts: int = 0
    """Tries that transient failures have spent."""
    crashes: int = 0
    """Workers that it took down before it went to a retry topic."""
    first_failed_at: float | None = None
    """s since the epoch"""

    @classmethod
    def of(cls, message: Message) -> RetryHeaders:
        headers = message.headers
        return cls(
            topic=headers.get(ORIGINAL_TOPIC, b"").decode("utf-8", "replace") or message.topic,
            attempts=int(_number(headers, ATTEMPTS) or 0),
            crashes=int(_number(headers, CRASHES) or 0),
            first_failed_at=_number(headers, FIRST_FAILED_AT),
        )


def retry_message(
    message: Message, retry_topic: str, delay: float, error: PipelineError, *, attempts: int, crashes: int
) -> Message:
    """``message`` on its way to a retry topic, to be tried again in ``delay`` s."""
    trail, now = RetryHeaders.of(message), time.time()
    facts = {
        ORIGINAL_TOPIC: trail.topic,
        ATTEMPTS: str(attempts),
        CRASHES: str(crashes),
        FIRST_FAILED_AT: f"{trail.first_failed_at or now:.3f}",
        LAST_ERROR: f"{error.code}: {error.message}",
        NOT_BEFORE: str(round((now + delay) * 1000)),
    }
    return Message(retry_topic, message.key, message.value, {**message.headers, **_encoded(facts)})


def dead_letter(topic: str, message: Message, error: PipelineError) -> Message:
    """``message`` with its raw bytes, on its way to the dead letters; headers say where it came from and why."""
    facts = {
        ORIGINAL_TOPIC: RetryHeaders.of(message).topic,
        ERROR_KIND: error.kind,
        ERROR_CODE: error.code,
        ERROR_MESSAGE: error.message,
        FAILED_AT: f"{time.time():.3f}",
    }
    headers = {name: value for name, value in message.headers.items() if name != NOT_BEFORE}
    return Message(topic, message.key, message.value, {**headers, **_encoded(facts)})


def shortened(letter: Message) -> Message:
    """As much of a dead letter as every engine takes; a header says how long its value was."""
    headers = {name: letter.headers[name] for name in _LETTER_HEADERS}
    headers[ORIGINAL_BYTES] = str(len(letter.value)).encode()
    return Message(letter.topic, letter.key[:KEPT_KEY], letter.value[:KEPT_VALUE], headers)


def without_trail(headers: Mapping[str, bytes]) -> dict[str, bytes]:
    """The headers that a message had when it was published first."""
    ours = {*_RETRY_HEADERS, *_LETTER_HEADERS, ORIGINAL_BYTES}
    return {name: value for name, value in headers.items() if name not in ours}


def _number(headers: Mapping[str, bytes], name: str) -> float | None:
    """A finite number that is not below 0, or None: others may have written the header."""
    try:
        number = float(headers[name])
    except (KeyError, ValueError):
        return None
    return number if 0 <= number < math.inf else None


def _encoded(facts: Mapping[str, str]) -> dict[str, bytes]:
    return {name: fact.encode() for name, fact in facts.items()}
