"""The retry policy: bounds of the delays, and the decision for each kind of failure."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.backoff import Backoff
from pipeline.consuming.retry import Action, RetryPolicy
from pipeline.errors import (
    CancelledError,
    ErrorCode,
    InfrastructureError,
    PermanentError,
    PipelineError,
    PoisonError,
    TransientError,
)

seconds = st.floats(min_value=1e-3, max_value=1e4)
backoffs = st.builds(Backoff, base=seconds, cap=seconds)
failures = st.integers(min_value=1, max_value=100_000)
rngs = st.randoms(use_true_random=False)


class FixedRandom(random.Random):
    """Returns one value, such as an end of the jitter."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self._value = value

    def random(self) -> float:
        return self._value


MIN_JITTER, MAX_JITTER = FixedRandom(0.0), FixedRandom(1.0)


class TestBackoff:
    @given(backoffs, failures, rngs)
    def test_delay_is_positive_and_at_most_the_cap(self, backoff: Backoff, failures: int, rng: random.Random) -> None:
        assert 0 < backoff.delay(failures, rng) <= backoff.cap

    @given(backoffs, failures, rngs)
    def test_jitter_removes_at_most_half(self, backoff: Backoff, failures: int, rng: random.Random) -> None:
        ceiling = backoff.delay(failures, MAX_JITTER)
        assert backoff.delay(failures, MIN_JITTER) == pytest.approx(ceiling / 2)
        assert ceiling / 2 <= backoff.delay(failures, rng) <= ceiling

    @given(backoffs)
    def test_ceilings_double_up_to_the_cap(self, backoff: Backoff) -> None:
        ceilings = [backoff.delay(failures, MAX_JITTER) for failures in range(1, 80)]
        assert ceilings[0] == min(backoff.base, backoff.cap)
        assert ceilings[-1] == backoff.cap
        assert all(later == min(backoff.cap, 2 * earlier) for earlier, later in pairwise(ceilings))


policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 10),
    max_crashes=st.integers(1, 5),
    delays=st.lists(seconds, min_size=1, max_size=5, unique=True).map(sorted).map(tuple),
    infrastructure=backoffs,
)
deliveries = st.integers(1, 10)


def decide(
    policy: RetryPolicy,
    error: PipelineError,
    attempts: int = 1,
    holds: int = 1,
    deliveries: int = 1,
    rng: random.Random = MAX_JITTER,
) -> tuple[Action, float | None]:
    decision = policy.decide(error, attempts=attempts, holds=holds, deliveries=deliveries, rng=rng)
    return decision.action, decision.delay


class TestDecisions:
    @given(policies, failures, deliveries)
    def test_permanent_fails_at_once(self, policy: RetryPolicy, failures: int, deliveries: int) -> None:
        error = PermanentError("404", code=ErrorCode.SOURCE_NOT_FOUND)
        assert decide(policy, error, failures, failures, deliveries) == (Action.FAIL, None)

    @given(policies)
    def test_transient_is_tried_max_attempts_times_with_growing_delays(self, policy: RetryPolicy) -> None:
        error = TransientError("503", code=ErrorCode.SOURCE_UNAVAILABLE)
        decisions = [decide(policy, error, n) for n in range(1, policy.max_attempts + 2)]
        delays = [delay for action, delay in decisions if action is Action.RETRY]
        expected = [*policy.delays, *[policy.delays[-1]] * policy.max_attempts]
        assert delays == expected[: policy.max_attempts - 1]
        assert decisions[policy.max_attempts - 1 :] == [(Action.FAIL, None)] * 2

    @given(policies, failures, deliveries, rngs)
    def test_infrastructure_is_held_without_limit(
        self, policy: RetryPolicy, failures: int, deliveries: int, rng: random.Random
    ) -> None:
        error = InfrastructureError("S3 is down", code=ErrorCode.STORAGE_UNAVAILABLE)
        action, delay = decide(policy, error, 10**6, failures, deliveries, rng)
        assert action is Action.HOLD
        assert delay is not None
        assert 0 < delay <= policy.infrastructure.cap

    @given(policies)
    def test_poison_is_requeued_until_it_has_crashed_max_crashes_workers(self, policy: RetryPolicy) -> None:
        error = PoisonError("the child crashed", code=ErrorCode.WORKER_DIED)
        actions = [decide(policy, error, deliveries=n)[0] for n in range(1, policy.max_crashes + 2)]
        before_the_last = policy.max_crashes - 1
        assert actions[:before_the_last] == [Action.REQUEUE] * before_the_last
        assert actions[before_the_last:] == [Action.QUARANTINE] * 2

    @given(policies)
    def test_deliveries_without_an_outcome_count_as_crashes(self, policy: RetryPolicy) -> None:
        assert not policy.is_poison(policy.max_crashes)
        assert policy.is_poison(policy.max_crashes + 1)

    @given(policies, failures, deliveries)
    def test_cancelled_is_abandoned(self, policy: RetryPolicy, failures: int, deliveries: int) -> None:
        error = CancelledError("stop", code=ErrorCode.DELIVERY_LOST)
        assert decide(policy, error, failures, failures, deliveries) == (Action.ABANDON, None)


class TestRetryAfter:
    @given(policies, st.floats(min_value=0, max_value=1e6))
    def test_first_sufficient_delay_is_used_or_else_the_longest(self, policy: RetryPolicy, requested: float) -> None:
        error = TransientError("429", code=ErrorCode.SOURCE_UNAVAILABLE, retry_after=requested)
        action, delay = decide(policy, error)
        if policy.max_attempts == 1:
            assert action is Action.FAIL
        else:
            assert delay == min((known for known in policy.delays if known >= requested), default=policy.delays[-1])

    def test_schedule_is_never_shortened(self) -> None:
        error = TransientError("429", code=ErrorCode.SOURCE_UNAVAILABLE, retry_after=1.0)
        assert decide(RetryPolicy(delays=(10.0, 60.0)), error, attempts=2) == (Action.RETRY, 60.0)
