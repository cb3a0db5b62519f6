"""Offset bookkeeping of one partition for one consumer, without a broker.

The committed offset is the contiguous low-water mark: the first message whose outcome is not durable yet. What the mark
alone would lose is stored in the commit's metadata string, so that it survives the consumer's death: the number of
attempts at each outstanding message, the messages above the mark that are settled already, and which log the mark
belongs to. A topic that is deleted and created again has a new log, in which the old mark means nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

#: Maximum length of the metadata that is written, characters. Brokers accept 4096 by default
#: (offset.metadata.max.bytes).
METADATA_LIMIT = 4000


@dataclass(frozen=True, slots=True)
class CommitMetadata:
    """The content of a commit's metadata string."""

    attempts: Mapping[int, int] = field(default_factory=dict)
    """Number of attempts at outstanding messages, by offset."""
    settled: tuple[range, ...] = ()
    """Offsets above the low-water mark whose outcome is durable."""
    topic_id: str | None = None
    """The id that the topic had; None if it was not recorded."""
    written_at: int | None = None
    """Time of the commit, s since the epoch; None if it was not recorded."""


class OffsetTracker:
    """Tracks the outstanding messages of one partition and the number of attempts at each.

    Messages are received in the order of their offsets. They may be settled in any order.
    """

    def __init__(self, committed: CommitMetadata, topic_id: str | None = None) -> None:
        """``committed``: the result of ``parse_metadata`` for the partition's last commit.

        ``topic_id``: the id of the topic, which the metadata records with the present time; None: neither is recorded.
        """
        self._topic_id = topic_id
        self._attempts = dict(committed.attempts)
        self._settled = {offset for offsets in committed.settled for offset in offsets}
        self._outstanding: set[int] = set()
        self._next: int | None = None

    def receive(self, offset: int) -> bool:
        """Record a fetched message. Return False if it is known already, or was settled by the previous owner."""
        if self.is_known(offset):
            return False
        self._next = offset + 1
        if offset in self._settled:
            return False
        self._outstanding.add(offset)
        return True

    def begin(self, offset: int) -> int:
        """Record the start of an attempt and return its number, from 1."""
        self._attempts[offset] = self._attempts.get(offset, 0) + 1
        return self._attempts[offset]

    def is_suspect(self, offset: int) -> bool:
        """Return True if an attempt at the message has ended without an outcome."""
        return self._attempts.get(offset, 0) > 0

    def settle(self, offset: int) -> None:
        """Record that the message's outcome is durable."""
        self._outstanding.discard(offset)
        self._attempts.pop(offset, None)
        self._settled.add(offset)
        low_water = self.low_water or 0
        self._settled = {settled for settled in self._settled if settled >= low_water}

    def undo_attempt(self, offset: int) -> None:
        """Take back an attempt that ended without an outcome for a reason other than the message."""
        self._attempts[offset] = max(0, self._attempts.get(offset, 0) - 1)

    def is_known(self, offset: int) -> bool:
        """Return True if the message, or one behind it, was received before."""
        return self._next is not None and offset < self._next

    @property
    def low_water(self) -> int | None:
        """The offset to commit; None before the first message."""
        return min(self._outstanding, default=self._next)

    @property
    def metadata(self) -> str:
        """The metadata string to commit with ``low_water``; empty if there is nothing to record.

        Its length is bounded by the number of messages with attempts. Ranges of settled messages that do not fit are
        left out: after a crash those messages are processed again, which is harmless because the work is idempotent.
        """
        low_water = self.low_water or 0
        begun = sorted(self._attempts.items())
        attempts = {str(offset): count for offset, count in begun if count and offset >= low_water}
        ranges: list[tuple[int, int]] = []  # first and last offset of each contiguous range
        for offset in sorted(offset for offset in self._settled if offset >= low_water):
            if ranges and ranges[-1][1] == offset - 1:
                ranges[-1] = (ranges[-1][0], offset)
            else:
                ranges.append((offset, offset))
        log = {"topic": self._topic_id, "at": int(time.time())} if self._topic_id else {}
        while True:
            content = log | {name: value for name, value in (("attempts", attempts), ("settled", ranges)) if value}
            text = json.dumps(content, separators=(",", ":")) if content else ""
            if len(text) <= METADATA_LIMIT or not ranges:
                return text
            del ranges[-max(1, len(ranges) // 4) :]


def parse_metadata(metadata: str | None) -> CommitMetadata:
    """Parse a commit's metadata string. Return an empty CommitMetadata if it is empty or of an unknown format."""
    try:
        content = json.loads(metadata or "{}")
        attempts = {int(offset): int(count) for offset, count in content.get("attempts", {}).items()}
        settled = tuple(range(int(first), int(last) + 1) for first, last in content.get("settled", []))
        topic_id, written_at = content.get("topic"), content.get("at")
        if not isinstance(topic_id, str | None) or not isinstance(written_at, int | None):
            return CommitMetadata()
    except (ValueError, TypeError, AttributeError):
        return CommitMetadata()
    return CommitMetadata(attempts, settled, topic_id, written_at)
