"""Assign jobs to device slots: one separation at a time per child, in the order in which the jobs become ready.

A job releases its slot before it hands off its stems, so that the next separation starts immediately.
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
"""Chooses a slot for a job that needs these models, from the free slots, least recently used first; None: wait."""


@dataclass(frozen=True, slots=True)
class Lease(Generic[Slot]):
    """A lease on one device slot."""

    slot: Slot
    waited: float
    """The time that the job waited for the slot, s."""
    idle: float
    """The time that the slot waited for a job, s."""


@dataclass(slots=True, eq=False)
class _Ticket(Generic[Slot]):
    """A job that waits for a slot, or has one."""

    models: frozenset[str]
    slot: Slot | None = None
    """None while the job waits."""


class Dispatcher(Generic[Slot]):
    """Leases each slot to one job at a time, first come first served. Thread-safe.

    Only the first waiting job is assigned a slot, so that no job overtakes another. ``choose`` is called with
    ``condition`` held; code that changes the state that ``choose`` depends on must call ``condition.notify``.
    """

    def __init__(self, condition: StoppableCondition, slots: Sequence[Slot], choose: Choice[Slot]) -> None:
        self._condition = condition
        self._choose = choose
        self._tickets: list[_Ticket[Slot]] = []
        """The jobs that have a slot and those that wait, in the order of their arrival."""
        now = time.monotonic()
        self._free_since = dict.fromkeys(slots, now)
        """The free slots, least recently used first."""

    @property
    def busy(self) -> list[Slot]:
        """The leased slots."""
        return [ticket.slot for ticket in tuple(self._tickets) if ticket.slot is not None]

    @contextmanager
    def lease(self, cancel: CancelToken, models: frozenset[str] = frozenset()) -> Iterator[Lease[Slot]]:
        """Wait for a slot for a job that needs ``models``, and hold it while the block runs.

        Raises CancelledError instead of waiting if the job is cancelled or the service stops. A job that finds a free
        slot may start while the service stops, and finish within the grace period.
        """
        cancel.raise_if_set()
        ticket, requested_at = _Ticket[Slot](models), time.monotonic()
        with self._condition:
            self._tickets.append(ticket)
        try:
            with self._condition:
                self._condition.wait_for(lambda: self._assign(ticket), cancel)
                assert ticket.slot is not None
                now = time.monotonic()
                lease = Lease(ticket.slot, now - requested_at, now - self._free_since.pop(ticket.slot))
                self._condition.notify()  # the next job is first now, and another slot may be free
            yield lease
        finally:
            with self._condition:
                if ticket.slot is not None:
                    self._free_since[ticket.slot] = time.monotonic()
                self._tickets.remove(ticket)
                self._condition.notify()

    def _assign(self, ticket: _Ticket[Slot]) -> bool:
        """Assign a slot if ``ticket`` is the first one without a slot. Return True if it has one."""
        if ticket.slot is None and ticket is next(each for each in self._tickets if each.slot is None):
            ticket.slot = self._choose(tuple(self._free_since), ticket.models)
        return ticket.slot is not None
