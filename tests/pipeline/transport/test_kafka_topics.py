"""What Kafka is told of a topic that is created."""

from __future__ import annotations

import pytest

from pipeline.transport.kafka.topics import TopicLayout
from pipeline.transport.protocol import Topic


@pytest.mark.parametrize(
    ("replicas", "asked", "in_sync"),
    [(1, None, "1"), (2, None, "1"), (3, None, "2"), (3, 1, "1"), (3, 3, "3")],
)
def test_all_replicas_but_one_must_have_a_message_unless_it_is_said_otherwise(
    replicas: int, asked: int | None, in_sync: str
) -> None:
    settings = TopicLayout(replication_factor=replicas, min_insync_replicas=asked).config(Topic("t", 1.0))
    assert settings["min.insync.replicas"] == in_sync


@pytest.mark.parametrize(("seconds", "milliseconds"), [(None, "-1"), (1.5, "1500"), (7 * 86_400.0, "604800000")])
def test_retention(seconds: float | None, milliseconds: str) -> None:
    assert TopicLayout().config(Topic("t", seconds))["retention.ms"] == milliseconds
