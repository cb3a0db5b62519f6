"""Tests of the configuration of created topics."""

from __future__ import annotations

import pytest

from pipeline.transport.kafka.topics import TopicLayout
from pipeline.transport.protocol import Topic


@pytest.mark.parametrize(
    ("replicas", "configured", "expected"),
    [(1, None, "1"), (2, None, "1"), (3, None, "2"), (3, 1, "1"), (3, 3, "3")],
)
def test_min_insync_replicas_defaults_to_all_but_one(replicas: int, configured: int | None, expected: str) -> None:
    config = TopicLayout(replication_factor=replicas, min_insync_replicas=configured).config(Topic("t", 1.0))
    assert config["min.insync.replicas"] == expected


@pytest.mark.parametrize(("seconds", "milliseconds"), [(None, "-1"), (1.5, "1500"), (7 * 86_400.0, "604800000")])
def test_retention(seconds: float | None, milliseconds: str) -> None:
    assert TopicLayout().config(Topic("t", seconds))["retention.ms"] == milliseconds
