"""The circuit breaker: during an infrastructure fault, a consumer keeps its jobs and receives no new ones.

    closed ──a job fails because of the infrastructure──▶ open ──the next try gets past the fault──▶ closed

The job that failed is the probe: it is retried with growing pauses until it gets past the fault.

If the circuit stays open, or the service stops meanwhile, the held jobs are given back to the group: another member may
be able to do them. An unavailable broker is no reason for that, since it is the same for every member.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pipeline.errors import ErrorCode, InfrastructureError, PipelineError
from pipeline.service import metrics
from pipeline.service.logs import get_logger

log = get_logger(__name__)

#: Time after which a member with an open circuit leaves its group, s. Held jobs lose the work that was done for them.
PATIENCE = 60.0


class CircuitBreaker:
    """Open while an infrastructure fault holds at least one job. Thread-safe.

    ``patience``: s after which it gives up.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._changed = threading.Condition()
        self._faults: dict[object, PipelineError] = {}
        self._give_back: dict[object, Callable[[], None]] = {}
        self._opened_at = 0.0
        self._stopping = False
        self._gave_up = False

    @property
    def gave_up(self) -> bool:
        """Return whether the circuit stayed open for longer than ``patience``."""
        return self._gave_up

    def open(self, holder: object, error: PipelineError, give_back: Callable[[], None]) -> None:
        """Record that ``error`` keeps the job of ``holder`` from going on.

        ``give_back`` is called when the job has to be given back, or now if that is the case already.
        """
        with self._changed:
            was_closed = not self._faults
            self._faults[holder] = error
            self._give_back[holder] = give_back
            if was_closed:
                self._opened_at = time.monotonic()
                metrics.circuit_open.set(1)
                metrics.circuit_openings.labels(error.code).inc()
            seconds = time.monotonic() - self._opened_at
            local = any(fault.code is not ErrorCode.BROKER_UNAVAILABLE for fault in self._faults.values())
            gives_up = local and seconds >= self._patience and not (was_closed or self._gave_up)
            self._gave_up = self._gave_up or gives_up
        if was_closed:
            log.warning("circuit_opened", error=error.message, code=error.code)
        if gives_up:
            log.error("circuit_stays_open", after_seconds=round(seconds, 1), error=error.message, code=error.code)
        if self._gave_up or self._stopping:
            self.give_back_held()

    def stop(self) -> None:
        """Give held jobs back, now and from now on."""
        self._stopping = True
        self.give_back_held()

    def rejoin(self) -> None:
        """Start again after the fault for which the circuit gave up was repaired."""
        self._gave_up = False

    def give_back_held(self) -> None:
        """Ask every holder to give its job back."""
        with self._changed:
            holders = tuple(self._give_back.values())
        for give_back in holders:
            give_back()

    def close(self, holder: object) -> None:
        """Record that the job of ``holder`` goes on or has ended. The circuit closes with its last fault."""
        with self._changed:
            self._give_back.pop(holder, None)
            if self._faults.pop(holder, None) is None or self._faults:
                return
            seconds = round(time.monotonic() - self._opened_at, 1)
            metrics.circuit_open.set(0)
            self._changed.notify_all()
        log.info("circuit_closed", after_seconds=seconds)

    def wait_closed(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for the circuit to be closed, and return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._faults, seconds)

    def check(self) -> None:
        """Raise InfrastructureError, with the fault and its duration, while the circuit is open."""
        with self._changed:
            fault = next(iter(self._faults.values()), None)
            seconds = time.monotonic() - self._opened_at
        if fault is not None:
            raise InfrastructureError(
                f"no new jobs are taken since {seconds:.0f} s ({fault.code}): {fault.message}", code=fault.code
            )
