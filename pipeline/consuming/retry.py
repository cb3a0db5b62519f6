"""Retry policy as pure data: (error, attempts) → decision. No clock, no sleep, no I/O."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import Enum

from pipeline.backoff import Backoff
from pipeline.errors import ErrorKind, PipelineError, TransientError


class Action(Enum):
    """What to do with a job whose handling raised."""

    RETRY = "retry"  # on to a retry topic: it comes again after the delay, an attempt is spent
    HOLD = "hold"  # keep the job and try again after the delay; nothing is spent, nothing new is taken
    FAIL = "fail"  # publish the failed outcome
    GIVE_BACK = "give_back"  # back to the transport, the death counted; the next delivery decides
    QUARANTINE = "quarantine"  # publish the failed outcome and a dead letter
    ABANDON = "abandon"  # stop without an outcome: the job is not ours to finish


@dataclass(frozen=True, slots=True)
class Decision:
    action: Action
    delay: float | None = None
    """Seconds to wait first, where the action has a wait."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently each kind of failure is tried again."""

    max_attempts: int = 4
    """Tries of a job whose failures are transient, the first one included."""
    max_crashes: int = 2
    """Workers that one job may take down before it is quarantined."""
    delays: tuple[float, ...] = (10.0, 60.0, 600.0)
    """Between the tries, s, growing; the last one repeats. Each is the delay of a retry topic."""
    infrastructure: Backoff = field(default_factory=lambda: Backoff(base=0.5, cap=30.0))

    def is_poison(self, deliveries: int) -> bool:
        """Whether a job that is being delivered for the ``deliveries``-th time killed its worker too often.

        Only deliveries that ended with neither an outcome nor a clean return are counted by the transport.
        """
        return deliveries > self.max_crashes

    def decide(
        self, error: PipelineError, *, attempts: int, holds: int, deliveries: int, rng: random.Random
    ) -> Decision:
        """What to do about ``error``.

        ``attempts`` ≥ 1: tries that transient failures have spent, this one included. ``holds`` ≥ 1: failures of our
        own surroundings in a row, this one included. ``deliveries`` ≥ 1: as in ``is_poison``.
        """
        match error.kind:
            case ErrorKind.PERMANENT:
                return Decision(Action.FAIL)
            case ErrorKind.TRANSIENT:
                return self._after_transient(error, attempts)
            case ErrorKind.INFRASTRUCTURE:
                return Decision(Action.HOLD, self.infrastructure.delay(holds, rng))
            case ErrorKind.POISON:
                poison = self.is_poison(deliveries + 1)
                return Decision(Action.QUARANTINE if poison else Action.GIVE_BACK)
            case ErrorKind.CANCELLED:
                return Decision(Action.ABANDON)

    def _after_transient(self, error: PipelineError, attempts: int) -> Decision:
        if attempts >= self.max_attempts:
            return Decision(Action.FAIL)
        asked = error.retry_after if isinstance(error, TransientError) else None
        due = self.delays[min(attempts, len(self.delays)) - 1 :]
        # A Retry-After that is longer than all of them is not waited for.
        return Decision(Action.RETRY, next((delay for delay in due if delay >= (asked or 0.0)), due[-1]))
