"""Dead letters as they lie in their topic, and the marks that say what has become of them."""

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

#: The end of the year 9999, s since the epoch: nothing later can be written as a date.
_END_OF_TIME = 253_402_300_800


class Resolution(StrEnum):
    """What has become of a letter."""

    REPLAYED = "replayed"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where a letter lies in the topic: its name, for as long as the topic exists."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """The position that ``text`` names. Raises ValueError."""
        match = re.fullmatch(r"([0-9]{1,10})/([0-9]{1,19})", text)
        if match is None:
            raise ValueError("must be partition/offset, such as 0/17")
        return cls(int(match[1]), int(match[2]))


@dataclass(frozen=True, slots=True)
class Mark:
    """That a letter has been dealt with."""

    resolution: Resolution
    at: float
    """s since the epoch"""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, with its marks, oldest first."""

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
        """The task's UUID, where the message came from this service."""
        return self.message.key

    @property
    def topic(self) -> str:
        """Where the message could not be worked on; empty if the letter does not say."""
        return _text(self.message, ORIGINAL_TOPIC)

    @property
    def kind(self) -> str:
        return _text(self.message, ERROR_KIND)

    @property
    def code(self) -> str:
        return _text(self.message, ERROR_CODE)

    @property
    def why(self) -> str:
        """The error, in a sentence."""
        return _text(self.message, ERROR_MESSAGE)

    @property
    def failed_at(self) -> float:
        """s since the epoch; when the letter was written, if it does not say."""
        return _seconds(self.message, FAILED_AT, self.stored.published_at)

    @property
    def original_bytes(self) -> int:
        """The length of the value before the letter may have been cut short."""
        text = _text(self.message, ORIGINAL_BYTES)
        return int(text) if re.fullmatch(r"[0-9]{1,19}", text) else len(self.message.value)

    @property
    def is_cut(self) -> bool:
        """Whether the letter holds only the beginning of its value."""
        return self.original_bytes > len(self.message.value)

    @property
    def replays(self) -> int:
        """How often it was replayed."""
        return sum(mark.resolution is Resolution.REPLAYED for mark in self.marks)


def letters_of(browsed: Iterable[StoredMessage]) -> list[Letter]:
    """The letters among everything that the topic holds, oldest first; resolved ones have marks."""
    found: list[StoredMessage] = []
    marks: dict[Position, list[Mark]] = defaultdict(list)
    for stored in browsed:
        resolved = _resolved_by(stored.message)
        if resolved is None:
            found.append(stored)
        else:
            marks[resolved].append(_mark(stored))
    found.sort(key=lambda stored: (stored.published_at, stored.partition, stored.offset))
    letters = (Letter(stored) for stored in found)
    return [Letter(letter.stored, _in_order(marks.get(letter.position, ()))) for letter in letters]


def mark(letter: Letter, resolution: Resolution) -> Message:
    """The message that says that the letter has been dealt with, now."""
    facts = {RESOLVES: str(letter.position), RESOLUTION: resolution.value, RESOLVED_AT: f"{time.time():.3f}"}
    headers = {name: fact.encode() for name, fact in facts.items()}
    return Message(letter.message.topic, letter.key, b"", headers)


def _resolved_by(message: Message) -> Position | None:
    """The letter that the message is a mark of; None if it is no mark.

    A letter keeps the headers of a message that came from anywhere, so it may well look like a mark; no mark has an
    original topic.
    """
    known = tuple(Resolution)
    if ORIGINAL_TOPIC in message.headers or _text(message, RESOLUTION) not in known:
        return None
    try:
        return Position.parse(_text(message, RESOLVES))
    except ValueError:
        return None


def _mark(stored: StoredMessage) -> Mark:
    at = _seconds(stored.message, RESOLVED_AT, stored.published_at)
    return Mark(Resolution(_text(stored.message, RESOLUTION)), at)


def _in_order(marks: Iterable[Mark]) -> tuple[Mark, ...]:
    return tuple(sorted(marks, key=lambda found: found.at))


def _text(message: Message, header: str) -> str:
    return message.headers.get(header, b"").decode("utf-8", "replace")


def _seconds(message: Message, header: str, default: float) -> float:
    try:
        value = float(_text(message, header))
    except ValueError:
        return default
    return value if 0 <= value < _END_OF_TIME else default
