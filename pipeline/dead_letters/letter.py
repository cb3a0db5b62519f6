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
    """A dead letter with its marks, oldest first."""

    stored: StoredMessage
    marks: tuple[Mark, ...] = ()

    @property
    def position(self) -> Position:
        return Position(self.stored.partition, self.stored.offset)

    @property
    def message(self) -> Message:
        return self.stored.message

    @property
    def key(self) -> str:
        """The task's UUID if this service published the message."""
        return self.message.key

    @property
    def topic(self) -> str:
        """The topic whose consumer gave the message up; empty if the letter does not name it."""
        return _text(self.message, ORIGINAL_TOPIC)

    @property
    def kind(self) -> str:
        return _text(self.message, ERROR_KIND)

    @property
    def code(self) -> str:
        return _text(self.message, ERROR_CODE)

    @property
    def error(self) -> str:
        """The error in one sentence."""
        return _text(self.message, ERROR_MESSAGE)

    @property
    def failed_at(self) -> float:
        """The time of the failure, s since the epoch. Defaults to the time when the letter was written."""
        return _seconds(self.message, FAILED_AT, self.stored.published_at)

    @property
    def original_bytes(self) -> int:
        """The size of the value before the letter was truncated, bytes."""
        text = _text(self.message, ORIGINAL_BYTES)
        return int(text) if re.fullmatch(r"[0-9]{1,19}", text) else len(self.message.value)

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
    return [
        Letter(
            stored, tuple(sorted(marks.get(Position(stored.partition, stored.offset), ()), key=lambda mark: mark.at))
        )
        for stored in found
    ]


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
