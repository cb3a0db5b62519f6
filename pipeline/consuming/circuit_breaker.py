"""The circuit breaker: while something of ours is unavailable, a worker keeps what it has and takes nothing new.

    closed ──a job meets an infrastructure fault──▶ open ──the job's next try gets past it──▶ closed

The job that met the fault is the probe: it is tried again with growing pauses, for as long as it takes.
"""

from __future__ import annotations

import threading
import time

from pipeline.errors import InfrastructureError, PipelineError
from pipeline.service import metrics
from pipeline.service.logs import get_logger

log = get_logger(__name__)


class CircuitBreaker:
    """Open while at least one job is held by an infrastructure fault. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._faults: dict[object, PipelineError] = {}
        self._since = 0.0

    def trip(self, holder: object, error: PipelineError) -> None:
        """``holder`` cannot go on with its job."""
        with self._changed:
            opens = not self._faults
            self._faults[holder] = error
            if opens:
                self._since = time.monotonic()
                metrics.circuit_open.set(1)
                metrics.circuit_openings.labels(error.code).inc()
        if opens:
            log.warning("consumption_stopped", error=error.message, code=error.code)

    def mend(self, holder: object) -> None:
        """``holder`` goes on, or has no job any more."""
        with self._changed:
            if self._faults.pop(holder, None) is None or self._faults:
                return
            seconds = round(time.monotonic() - self._since, 1)
            metrics.circuit_open.set(0)
            self._changed.notify_all()
        log.info("consumption_resumed", after_seconds=seconds)

    def wait_closed(self, seconds: float) -> bool:
        """Wait up to ``seconds``; whether new jobs may be taken."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._faults, seconds)

    def check(self) -> None:
        """Raise InfrastructureError, with the fault and its duration, while it is open."""
        with self._changed:
            fault = next(iter(self._faults.values()), None)
            seconds = time.monotonic() - self._since
        if fault is not None:
            raise InfrastructureError(
                f"nothing new is taken since {seconds:.0f} s ({fault.code}): {fault.message}",
                code=fault.code,
            )
