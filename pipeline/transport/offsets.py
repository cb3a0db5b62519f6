"""What a consumer may commit: the arithmetic of one partition, without a broker.

The committed offset is the contiguous low-water mark: the first message whose outcome is not durable. What the mark
alone would lose travels with it in the commit's metadata string, and so survives the consumer's death: how often each
outstanding message was begun, and which messages above the mark are settled already.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

#: Longest metadata that is written, characters: brokers take 4096 (offset.metadata.max.bytes) unless told otherwise.
METADATA_LIMIT = 4000


@dataclass(frozen=True, slots=True)
class CommitNotes:
    """What stands in a commit's metadata."""

    attempts: Mapping[int, int] = field(default_factory=dict)
    """How often outstanding messages were begun, by offset."""
    settled: tuple[range, ...] = ()
    """Messages above the low-water mark whose outcome is durable."""


class PartitionProgress:
    """Which messages of one partition are outstanding, and how often each was begun.

    Messages are told of in the order of their offsets; they may be settled in any order.
    """

    def __init__(self, notes: CommitNotes) -> None:
        """``notes``: what ``parse_metadata`` found in the partition's last commit."""
        self._attempts = dict(notes.attempts)
        self._settled = {offset for run in notes.settled for offset in run}
        self._outstanding: set[int] = set()
        self._next: int | None = None

    def received(self, offset: int) -> bool:
        """A message has come in; False if it is known already, or settled by whoever had the partition before."""
        if self._next is not None and offset < self._next:
            return False
        self._next = offset + 1
        if offset in self._settled:
            return False
        self._outstanding.add(offset)
        return True

    def begin(self, offset: int) -> int:
        """The message is handed to a worker; returns which attempt this is, from 1."""
        self._attempts[offset] = self._attempts.get(offset, 0) + 1
        return self._attempts[offset]

    def is_suspect(self, offset: int) -> bool:
        """Whether an attempt at the message has ended without an outcome."""
        return self._attempts.get(offset, 0) > 0

    def settle(self, offset: int) -> None:
        """The message's outcome is durable."""
        self._outstanding.discard(offset)
        self._attempts.pop(offset, None)
        self._settled.add(offset)
        low = self.low_water or 0
        self._settled = {settled for settled in self._settled if settled >= low}

    def uncount(self, offset: int) -> None:
        """The attempt ended without an outcome, but not by the message's fault."""
        self._attempts[offset] = max(0, self._attempts.get(offset, 0) - 1)

    @property
    def low_water(self) -> int | None:
        """The offset to commit; None before the first message."""
        return min(self._outstanding, default=self._next)

    @property
    def metadata(self) -> str:
        """The string to commit with it, empty if there is nothing to say.

        Its length is bounded by the number of messages that were begun. Runs of settled messages that would not fit are
        left out: those messages would be worked on again after a crash, which changes nothing.
        """
        low = self.low_water or 0
        attempts = {str(offset): count for offset, count in sorted(self._attempts.items()) if count and offset >= low}
        settled = _runs(offset for offset in self._settled if offset >= low)
        while len(text := _serialised(attempts, settled)) > METADATA_LIMIT and settled:
            del settled[-max(1, len(settled) // 4) :]
        return text


def parse_metadata(metadata: str | None) -> CommitNotes:
    """The notes in a commit's metadata; none if it is empty or somebody else wrote it."""
    try:
        found = json.loads(metadata or "{}")
        attempts = {int(offset): int(count) for offset, count in found.get("attempts", {}).items()}
        settled = tuple(range(int(first), int(last) + 1) for first, last in found.get("settled", []))
    except (ValueError, TypeError, AttributeError):
        return CommitNotes()
    return CommitNotes(attempts, settled)


def _runs(offsets: Iterable[int]) -> list[tuple[int, int]]:
    """The offsets as runs of neighbours, first and last of each."""
    runs: list[tuple[int, int]] = []
    for offset in sorted(offsets):
        if runs and runs[-1][1] == offset - 1:
            runs[-1] = (runs[-1][0], offset)
        else:
            runs.append((offset, offset))
    return runs


def _serialised(attempts: Mapping[str, int], settled: list[tuple[int, int]]) -> str:
    notes = {"attempts": attempts, "settled": settled}
    known = {name: value for name, value in notes.items() if value}
    return json.dumps(known, separators=(",", ":")) if known else ""
