"""The gate before the devices: one separation at a time for each child, in the order in which the jobs were ready.

Whoever leaves it hands his stems off outside, so that the next separation begins at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipeline.cancellation import CancelToken
from processor.stop_condition import StoppableCondition

Slot = TypeVar("Slot")

Choice = Callable[[Sequence[Slot], frozenset[str]], Slot | None]
"""Which of the free places, least recently used first, a job takes that wants these models; None: it waits on."""


@dataclass(frozen=True, slots=True)
class Lease(Generic[Slot]):
    """How a job and a place came together."""

    slot: Slot
    waited: float
    """How long the job waited for it, s."""
    idle: float
    """How long the place waited for a job, s."""


@dataclass(slots=True, eq=False)
class _Ticket(Generic[Slot]):
    wants: frozenset[str]
    slot: Slot | None = None
    """Where its job is; None while it waits."""


class Dispatcher(Generic[Slot]):
    """Lets one lane at a time to each place. Thread-safe.

    Only the first in the line is given a place, so nobody is overtaken; which place it is never makes him wait.
    ``choose`` is called with ``condition`` held; whoever changes what it goes by calls ``room.notify``.
    """

    def __init__(self, condition: StoppableCondition, slots: Sequence[Slot], choose: Choice[Slot]) -> None:
        self._condition = condition
        self._choose = choose
        self._line: list[_Ticket[Slot]] = []
        """Those at a place, and those before the gate, as they came."""
        now = time.monotonic()
        self._free_since = dict.fromkeys(slots, now)
        """Of the places that are free, least recently used first."""

    @property
    def busy(self) -> list[Slot]:
        """The places that a job is at."""
        return [ticket.slot for ticket in tuple(self._line) if ticket.slot is not None]

    @contextmanager
    def lease(self, cancel: CancelToken, wants: frozenset[str] = frozenset()) -> Iterator[Lease[Slot]]:
        """A place, for as long as the block takes.

        Raises CancelledError instead of waiting (on) if the job is cancelled or the service stops; a job that finds
        a place free may begin while the service stops, and end within its grace.
        """
        cancel.raise_if_set()
        ticket, came = _Ticket[Slot](wants), time.monotonic()
        with self._condition:
            self._line.append(ticket)
        try:
            with self._condition:
                lease = self._admitted(ticket, came, cancel)
            yield lease
        finally:
            with self._condition:
                if ticket.slot is not None:
                    self._free_since[ticket.slot] = time.monotonic()
                self._line.remove(ticket)
                self._condition.notify()

    def _admitted(self, ticket: _Ticket[Slot], came: float, cancel: CancelToken) -> Lease[Slot]:
        found: list[Slot] = []

        def has_place() -> bool:
            if not found and self._is_first(ticket):
                slot = self._choose(tuple(self._free_since), ticket.wants)
                found.extend([] if slot is None else [slot])
            return bool(found)

        self._condition.wait_for(has_place, cancel)
        ticket.slot = found[0]
        began = time.monotonic()
        lease = Lease(ticket.slot, began - came, began - self._free_since.pop(ticket.slot))
        self._condition.notify()  # the next one is first now, and another place may be free
        return lease

    def _is_first(self, ticket: _Ticket[Slot]) -> bool:
        return ticket is next(other for other in self._line if other.slot is None)
