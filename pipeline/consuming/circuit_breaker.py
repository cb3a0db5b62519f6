"""The circuit breaker: during an infrastructure fault, a consumer keeps its jobs and receives no new ones.

    closed ──a job fails because of the infrastructure──▶ open ──the next try gets past the fault──▶ closed

The job that failed is the probe: it is retried with growing pauses until it gets past the fault.
"""

from __future__ import annotations

import threading
import time

from pipeline.errors import InfrastructureError, PipelineError
from pipeline.service import metrics
from pipeline.service.logs import get_logger

log = get_logger(__name__)


class CircuitBreaker:
    """Open while an infrastructure fault holds at least one job. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._faults: dict[object, PipelineError] = {}
        self._opened_at = 0.0

    def open(self, holder: object, error: PipelineError) -> None:
        """Record that ``error`` keeps the job of ``holder`` from going on."""
        with self._changed:
            was_closed = not self._faults
            self._faults[holder] = error
            if was_closed:
                self._opened_at = time.monotonic()
                metrics.circuit_open.set(1)
                metrics.circuit_openings.labels(error.code).inc()
        if was_closed:
            log.warning("circuit_opened", error=error.message, code=error.code)

    def close(self, holder: object) -> None:
        """Record that the job of ``holder`` goes on or has ended. The circuit closes with its last fault."""
        with self._changed:
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
