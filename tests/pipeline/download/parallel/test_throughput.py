"""Estimates of the throughput of one connection and of the remaining time."""

from __future__ import annotations

import pytest

from pipeline.download.parallel.throughput import Latency, ThroughputEstimator

MB = 1_000_000


def test_rate_is_divided_by_the_delivering_connections() -> None:
    throughput = ThroughputEstimator(0.0, 0)
    throughput.update(0.5, 4 * MB, 4)
    assert throughput.per_connection == 2 * MB


def test_new_measurements_are_smoothed() -> None:
    throughput = ThroughputEstimator(0.0, 0)
    throughput.update(1.0, 2 * MB, 1)
    throughput.update(2.0, 2 * MB, 1)
    assert throughput.per_connection == 1 * MB


def test_nothing_is_estimated_before_bytes_arrive() -> None:
    throughput = ThroughputEstimator(0.0, 0)
    throughput.update(1.0, 0, 0)
    throughput.update(0.001, MB, 1)
    assert throughput.per_connection == 0


def test_round_trip_ignores_a_handshake_that_lost_a_packet() -> None:
    assert Latency(0.1, 0.1).round_trip == pytest.approx(0.1)
    assert Latency(1.1, 0.1).round_trip == pytest.approx(0.1)
