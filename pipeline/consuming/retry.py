"""The retry policy as pure data: (error, attempts) → decision. No clock, no sleep, no I/O."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import Enum

from pipeline.backoff import Backoff
from pipeline.errors import DeferredError, ErrorKind, PipelineError, TransientError


class Action(Enum):
    """The next step for a job whose handling raised an error."""

    RETRY = "retry"  # move to a retry topic: delivered again after the delay; spends one attempt
    DEFER = "defer"  # the same, but spends nothing
    HOLD = "hold"  # keep the job and try again after the delay; spends nothing, receives nothing new
    FAIL = "fail"  # publish the failed outcome
    REQUEUE = "requeue"  # release to the transport and count the crash; the next delivery decides
    QUARANTINE = "quarantine"  # publish the failed outcome and a dead letter
    ABANDON = "abandon"  # release without an outcome and without counting: another member finishes the job


@dataclass(frozen=True, slots=True)
class Decision:
    """The action of ``RetryPolicy.decide`` for one failure."""

    action: Action
    delay: float | None = None
    """Seconds to wait before the next try, for actions that have one."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The number of tries, and the pauses between them, for each kind of failure."""

    max_attempts: int = 4
    """Tries of a job whose failures are transient, the first one included."""
    max_crashes: int = 2
    """Worker processes that one job may crash before it is quarantined."""
    delays: tuple[float, ...] = (10.0, 60.0, 600.0)
    """Pauses between the tries, s, growing; the last one repeats. Each is the delay of a retry topic."""
    newer_patience: float = 3_600.0
    """Time that a message of a newer version waits for a newer member of the group, s, such as during an upgrade."""
    infrastructure: Backoff = field(default_factory=lambda: Backoff(base=0.5, cap=30.0))

    def is_poison(self, deliveries: int) -> bool:
        """Return whether a job in its ``deliveries``-th delivery has crashed too many worker processes.

        The transport counts only deliveries that ended with neither an outcome nor a clean release.
        """
        return deliveries > self.max_crashes

    def newer_delay(self, waited: float) -> float | None:
        """Return the delay before a newer message that has ``waited`` s is read again, s; None to give it up.

        The delays grow with the time, so that the number of reads is small and an upgrade is noticed soon.
        """
        if waited >= self.newer_patience:
            return None
        return max((delay for delay in self.delays if delay <= waited), default=self.delays[0])

    def decide(
        self, error: PipelineError, *, attempts: int, holds: int, deliveries: int, rng: random.Random
    ) -> Decision:
        """Decide how to go on after ``error``.

        ``attempts`` ≥ 1: tries that transient failures have spent, this one included. ``holds`` ≥ 1: infrastructure
        faults in a row, this one included. ``deliveries`` ≥ 1: as in ``is_poison``.
        """
        match error.kind:
            case ErrorKind.PERMANENT:
                return Decision(Action.FAIL)
            case ErrorKind.TRANSIENT:
                if isinstance(error, DeferredError):
                    return Decision(Action.DEFER, self.delays[0])
                if attempts >= self.max_attempts:
                    return Decision(Action.FAIL)
                requested = (error.retry_after if isinstance(error, TransientError) else None) or 0.0
                remaining = self.delays[min(attempts, len(self.delays)) - 1 :]
                # A Retry-After beyond the longest delay is cut to that delay.
                return Decision(Action.RETRY, next((delay for delay in remaining if delay >= requested), remaining[-1]))
            case ErrorKind.INFRASTRUCTURE:
                return Decision(Action.HOLD, self.infrastructure.delay(holds, rng))
            case ErrorKind.POISON:
                return Decision(Action.QUARANTINE if self.is_poison(deliveries + 1) else Action.REQUEUE)
            case ErrorKind.CANCELLED:
                return Decision(Action.ABANDON)
