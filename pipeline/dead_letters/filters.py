"""Filters that select dead letters by error, topic, task and age."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from uuid import UUID

from pipeline.dead_letters.letter import Letter

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Selects the letters that match every field that is not None."""

    code: str | None = None
    kind: str | None = None
    task: UUID | None = None
    topic: str | None = None
    """The topic whose consumer gave the message up."""
    older_than: float | None = None
    """Age since the failure, s."""
    newer_than: float | None = None
    """Age since the failure, s."""
    limit: int | None = None
    """The largest number of letters; the oldest are taken."""

    def select(self, letters: Iterable[Letter], now: float) -> list[Letter]:
        """Return the matching letters in their order. ``now``: s since the epoch."""

        def matches(letter: Letter) -> bool:
            age = now - letter.failed_at
            return (
                self.code in (None, letter.code)
                and self.kind in (None, letter.kind)
                and (self.task is None or letter.key.lower() == str(self.task))
                and self.topic in (None, letter.topic)
                and (self.older_than is None or age > self.older_than)
                and (self.newer_than is None or age < self.newer_than)
            )

        return list(islice(filter(matches, letters), self.limit))


def duration(text: str) -> float:
    """Return ``90s``, ``10m``, ``2h`` or ``7d`` in s. Raises ValueError."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if match is None:
        raise ValueError("must be a number and a unit, such as 90s, 10m, 2h or 7d")
    return float(match[1]) * _UNITS[match[2]]
