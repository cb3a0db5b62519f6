"""The circuit breaker: several holders, and the ways to give held jobs back."""

from __future__ import annotations

import pytest

from pipeline.consuming.circuit_breaker import CircuitBreaker
from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.service import metrics

STORAGE_DOWN = InfrastructureError("the storage does not answer", code=ErrorCode.STORAGE_UNAVAILABLE)
BROKER_DOWN = InfrastructureError("the broker does not answer", code=ErrorCode.BROKER_UNAVAILABLE)


def circuit_metric() -> float | None:
    (family,) = metrics.circuit_open.collect()
    return family.samples[0].value


def test_circuit_closes_with_its_last_holder() -> None:
    breaker = CircuitBreaker()
    breaker.open("a", STORAGE_DOWN, lambda: None)
    breaker.open("b", BROKER_DOWN, lambda: None)
    breaker.close("a")
    assert not breaker.wait_closed(0.0)
    assert circuit_metric() == 1
    with pytest.raises(InfrastructureError, match="the broker"):
        breaker.check()
    breaker.close("b")
    assert breaker.wait_closed(0.0)
    assert circuit_metric() == 0
    breaker.check()


def test_member_gives_up_unless_only_the_broker_is_unavailable() -> None:
    breaker, given_back = CircuitBreaker(patience=0.0), list[str]()
    for _ in range(2):
        breaker.open("a", BROKER_DOWN, lambda: given_back.append("a"))
    assert (given_back, breaker.gave_up) == ([], False)
    breaker.open("b", STORAGE_DOWN, lambda: given_back.append("b"))
    assert (given_back, breaker.gave_up) == (["a", "b"], True)


def test_job_that_is_held_after_the_member_gave_up_is_given_back() -> None:
    breaker, given_back = CircuitBreaker(patience=0.0), list[str]()
    for _ in range(2):
        breaker.open("a", STORAGE_DOWN, lambda: None)
    breaker.close("a")
    breaker.open("b", STORAGE_DOWN, lambda: given_back.append("b"))
    assert given_back == ["b"]
    breaker.close("b")
    breaker.rejoin()
    breaker.open("c", STORAGE_DOWN, lambda: given_back.append("c"))
    assert (given_back, breaker.gave_up) == (["b"], False)


def test_held_jobs_are_given_back_from_the_stop_on() -> None:
    breaker, given_back = CircuitBreaker(), list[str]()
    breaker.open("a", STORAGE_DOWN, lambda: given_back.append("a"))
    breaker.stop()
    breaker.close("a")
    breaker.open("b", STORAGE_DOWN, lambda: given_back.append("b"))
    assert given_back == ["a", "b"]
