"""Fixtures that run every test of this folder on every engine."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.transport import backends
from tests.conformance.transport.backends import Backend
from tests.conformance.transport.consumer_stage import DELAYS, Stage, Topics

ENGINES = [*backends.BOTH_ENGINES, pytest.param("kafka-3", marks=backends.NEEDS_KAFKA)]


@pytest.fixture(params=ENGINES)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    engine = request.param
    if engine == "embedded":
        with backends.embedded(tmp_path) as opened:
            yield opened
        return
    broker = request.getfixturevalue("kafka_broker")
    with backends.kafka(broker.bootstrap_servers, partitions=int(engine.removeprefix("kafka-"))) as opened:
        yield opened


@pytest.fixture
def topic(backend: Backend) -> str:
    return backend.topic()


@pytest.fixture
def group() -> str:
    """Return a new group: members killed by a test remain in their group until the session timeout."""
    return f"group-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def topics(backend: Backend) -> Topics:
    retries = {delay: backend.topic(f"retry-{delay}") for delay in DELAYS}
    return Topics(backend.topic("jobs"), backend.topic("results"), backend.topic("dead-letters"), retries)


@pytest.fixture
def stage(backend: Backend, topics: Topics, group: str) -> Iterator[Stage]:
    stage = Stage(backend, topics, group)
    yield stage
    for loop in stage.loops:
        loop.stop_and_join()
