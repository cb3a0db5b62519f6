"""Which letters an operator means: by what failed, how, when, and for whom."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from uuid import UUID

from pipeline.dead_letters.letter import Letter

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Selection:
    """The letters for which everything holds that is not None."""

    code: str | None = None
    kind: str | None = None
    task: UUID | None = None
    topic: str | None = None
    """Where the message could not be worked on."""
    older_than: float | None = None
    """s since it failed"""
    newer_than: float | None = None
    """s since it failed"""
    limit: int | None = None
    """How many at most, the oldest."""

    def of(self, letters: Iterable[Letter], now: float) -> list[Letter]:
        """Those of ``letters`` that are meant, in their order. ``now``: s since the epoch."""
        return list(islice((letter for letter in letters if all(self._tests(letter, now))), self.limit))

    def _tests(self, letter: Letter, now: float) -> Iterator[bool]:
        age = now - letter.failed_at
        yield self.code is None or letter.code == self.code
        yield self.kind is None or letter.kind == self.kind
        yield self.task is None or letter.key.lower() == str(self.task)
        yield self.topic is None or letter.topic == self.topic
        yield self.older_than is None or age > self.older_than
        yield self.newer_than is None or age < self.newer_than


def duration(text: str) -> float:
    """``90s``, ``10m``, ``2h``, ``7d`` in s. Raises ValueError."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if match is None:
        raise ValueError("must be a number and a unit, such as 90s, 10m, 2h or 7d")
    return float(match[1]) * _UNITS[match[2]]
