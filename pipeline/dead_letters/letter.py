"""Dead letters as stored in their topic, and the marks that record their replay or drop."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from pipeline.consuming.retry_headers import (
    ERROR_CODE,
    ERROR_KIND,
    ERROR_MESSAGE,
    FAILED_AT,
    ORIGINAL_BYTES,
    ORIGINAL_TOPIC,
)
from pipeline.transport.protocol import Message, StoredMessage

# Headers of a mark.
RESOLVES = "resolves"
RESOLUTION = "resolution"
RESOLVED_AT = "resolved-at"

#: The end of the year 9999, s since the epoch: the latest time that can be formatted as a date.
_MAX_TIME = 253_402_300_800


class Resolution(StrEnum):
    """An operator's decision about a letter."""

    REPLAYED = "replayed"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """The place of a letter in the topic. It identifies the letter for as long as the topic exists."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Parse ``partition/offset``. Raises ValueError."""
        match = re.fullmatch(r"([0-9]{1,10})/([0-9]{1,19})", text)
        if match is None:
            raise ValueError("must be partition/offset, such as 0/17")
        return cls(int(match[1]), int(match[2]))


@dataclass(frozen=True, slots=True)
class Mark:
    """The record of one replay or drop."""

    resolution: Resolution
    at: float
    """s since the epoch"""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter with the facts of its headers. Missing text is empty."""

    position: Position
    message: Message
    topic: str
    """The topic whose consumer gave the message up."""
    kind: str
    code: str
    error: str
    """The error in one sentence."""
    failed_at: float
    """The time of the failure, s since the epoch. Defaults to the time when the letter was written."""
    original_bytes: int
    """The size of the value before the letter was truncated, bytes."""
    marks: tuple[Mark, ...] = ()
    """Oldest first."""

    @classmethod
    def of(cls, stored: StoredMessage, marks: Iterable[Mark] = ()) -> Letter:
        """Return the letter that is stored as this message."""
        message = stored.message
        size = _text(message, ORIGINAL_BYTES)
        return cls(
            position=Position(stored.partition, stored.offset),
            message=message,
            topic=_text(message, ORIGINAL_TOPIC),
            kind=_text(message, ERROR_KIND),
            code=_text(message, ERROR_CODE),
            error=_text(message, ERROR_MESSAGE),
            failed_at=_seconds(message, FAILED_AT, stored.published_at),
            original_bytes=int(size) if re.fullmatch(r"[0-9]{1,19}", size) else len(message.value),
            marks=tuple(sorted(marks, key=lambda mark: mark.at)),
        )

    @property
    def key(self) -> str:
        """The task's UUID if this service published the message."""
        return self.message.key

    @property
    def is_truncated(self) -> bool:
        """True if the letter holds only the first part of the value."""
        return self.original_bytes > len(self.message.value)

    @property
    def replays(self) -> int:
        """The number of times that the letter was replayed."""
        return sum(mark.resolution is Resolution.REPLAYED for mark in self.marks)


def read_letters(browsed: Iterable[StoredMessage]) -> list[Letter]:
    """Return the letters of the topic, oldest first, each with its marks."""
    found: list[StoredMessage] = []
    marks: dict[Position, list[Mark]] = defaultdict(list)
    for stored in browsed:
        resolved = _resolved_position(stored.message)
        if resolved is None:
            found.append(stored)
        else:
            at = _seconds(stored.message, RESOLVED_AT, stored.published_at)
            marks[resolved].append(Mark(Resolution(_text(stored.message, RESOLUTION)), at))
    found.sort(key=lambda stored: (stored.published_at, stored.partition, stored.offset))
    return [Letter.of(stored, marks[Position(stored.partition, stored.offset)]) for stored in found]


def mark(letter: Letter, resolution: Resolution) -> Message:
    """Return the message that records ``resolution`` of the letter at the present time."""
    facts = {RESOLVES: str(letter.position), RESOLUTION: resolution.value, RESOLVED_AT: f"{time.time():.3f}"}
    headers = {name: fact.encode() for name, fact in facts.items()}
    return Message(letter.message.topic, letter.key, b"", headers)


def _resolved_position(message: Message) -> Position | None:
    """Return the position of the letter that the message resolves; None if the message is no mark.

    A letter keeps the headers of its message, which may imitate a mark. Only letters have an original topic.
    """
    if ORIGINAL_TOPIC in message.headers or _text(message, RESOLUTION) not in tuple(Resolution):
        return None
    try:
        return Position.parse(_text(message, RESOLVES))
    except ValueError:
        return None


def _text(message: Message, header: str) -> str:
    return message.headers.get(header, b"").decode("utf-8", "replace")


def _seconds(message: Message, header: str, default: float) -> float:
    try:
        value = float(_text(message, header))
    except ValueError:
        return default
    return value if 0 <= value < _MAX_TIME else default
