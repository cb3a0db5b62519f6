"""What a consumer may commit: the arithmetic of one partition, without a broker.

The committed offset is the contiguous low-water mark: the first message whose outcome is not durable. The number
of times that outstanding messages have been begun travels with it in the commit's metadata string, so that it
survives the consumer's death.
"""

from __future__ import annotations

import json
from collections.abc import Mapping


class PartitionProgress:
    """Which messages of one partition are outstanding, and how often each was begun.

    Messages are told of in the order of their offsets; they may be settled in any order.
    """

    def __init__(self, attempts: Mapping[int, int]) -> None:
        """``attempts``: what ``parse_metadata`` found in the partition's last commit."""
        self._attempts = dict(attempts)
        self._outstanding: set[int] = set()
        self._next: int | None = None

    def received(self, offset: int) -> bool:
        """A message has come in; False if it is known already."""
        if self._next is not None and offset < self._next:
            return False
        self._outstanding.add(offset)
        self._next = offset + 1
        return True

    def begin(self, offset: int) -> int:
        """The message is handed to a worker; returns which attempt this is, from 1."""
        self._attempts[offset] = self._attempts.get(offset, 0) + 1
        return self._attempts[offset]

    def settle(self, offset: int) -> None:
        """The message's outcome is durable."""
        self._outstanding.discard(offset)
        self._attempts.pop(offset, None)

    def uncount(self, offset: int) -> None:
        """The attempt ended without an outcome, but not by the message's fault."""
        self._attempts[offset] = max(0, self._attempts.get(offset, 0) - 1)

    @property
    def low_water(self) -> int | None:
        """The offset to commit; None before the first message."""
        return min(self._outstanding, default=self._next)

    @property
    def metadata(self) -> str:
        """The string to commit with it. Its length is bounded by the number of messages that were begun."""
        low = self.low_water or 0
        attempts = {str(offset): count for offset, count in sorted(self._attempts.items()) if count and offset >= low}
        return json.dumps({"attempts": attempts}, separators=(",", ":")) if attempts else ""


def parse_metadata(metadata: str | None) -> dict[int, int]:
    """The attempts in a commit's metadata; none if it is empty or somebody else wrote it."""
    try:
        attempts = json.loads(metadata or "{}")["attempts"]
        return {int(offset): int(count) for offset, count in attempts.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
