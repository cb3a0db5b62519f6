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

    place: Slot
    waited: float
    """How long the job waited for it, s."""
    idle: float
    """How long the place waited for a job, s."""


@dataclass(slots=True, eq=False)
class _Ticket(Generic[Slot]):
    wants: frozenset[str]
    place: Slot | None = None
    """Where its job is; None while it waits."""


class Dispatcher(Generic[Slot]):
    """Lets one lane at a time to each place. Thread-safe.

    Only the first in the line is given a place, so nobody is overtaken; which place it is never makes him wait.
    ``choose`` is called with ``room`` held; whoever changes what it goes by calls ``room.notify``.
    """

    def __init__(self, room: StoppableCondition, places: Sequence[Slot], choose: Choice[Slot]) -> None:
        self._room = room
        self._choose = choose
        self._line: list[_Ticket[Slot]] = []
        """Those at a place, and those before the gate, as they came."""
        now = time.monotonic()
        self._free_since = dict.fromkeys(places, now)
        """Of the places that are free, least recently used first."""

    @property
    def busy(self) -> list[Slot]:
        """The places that a job is at."""
        return [ticket.place for ticket in tuple(self._line) if ticket.place is not None]

    @contextmanager
    def turn(self, cancel: CancelToken, wants: frozenset[str] = frozenset()) -> Iterator[Lease[Slot]]:
        """A place, for as long as the block takes.

        Raises CancelledError instead of waiting (on) if the job is cancelled or the service stops; a job that finds
        a place free may begin while the service stops, and end within its grace.
        """
        cancel.raise_if_set()
        ticket, came = _Ticket[Slot](wants), time.monotonic()
        with self._room:
            self._line.append(ticket)
        try:
            with self._room:
                turn = self._admitted(ticket, came, cancel)
            yield turn
        finally:
            with self._room:
                if ticket.place is not None:
                    self._free_since[ticket.place] = time.monotonic()
                self._line.remove(ticket)
                self._room.notify()

    def _admitted(self, ticket: _Ticket[Slot], came: float, cancel: CancelToken) -> Lease[Slot]:
        found: list[Slot] = []

        def has_place() -> bool:
            if not found and self._is_first(ticket):
                place = self._choose(tuple(self._free_since), ticket.wants)
                found.extend([] if place is None else [place])
            return bool(found)

        self._room.wait_for(has_place, cancel)
        ticket.place = found[0]
        began = time.monotonic()
        turn = Lease(ticket.place, began - came, began - self._free_since.pop(ticket.place))
        self._room.notify()  # the next one is first now, and another place may be free
        return turn

    def _is_first(self, ticket: _Ticket[Slot]) -> bool:
        return ticket is next(other for other in self._line if other.place is None)
