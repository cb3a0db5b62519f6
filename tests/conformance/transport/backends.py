"""The engines under test, behind one interface."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.transport.embedded.transport import EmbeddedTransport
from pipeline.transport.kafka.transport import KafkaTransport
from pipeline.transport.protocol import Topic, Transport

ROOT = Path(__file__).parents[3]

NEEDS_KAFKA = [
    pytest.mark.kafka,
    # The first test that needs Kafka may have to download it, which takes minutes.
    pytest.mark.timeout(1200),
]

#: The engines by name; Kafka's with the number of partitions per topic.
BOTH_ENGINES = ["embedded", pytest.param("kafka-1", marks=NEEDS_KAFKA)]

#: Short, so that a crash is detected within a test's timeout; services use 30 s and 10 min.
SESSION_TIMEOUT_MS = 2000
MAX_POLL_INTERVAL_MS = 3000
LEASE = 2.0
#: Longer than every timeout above, s: a job of this length loses its membership unless it is kept alive.
LONG_JOB = 4.0


def open_transport(description: dict[str, Any]) -> Transport:
    """Open the engine described by ``description``, which is JSON-serialisable for use in other processes."""
    if description["engine"] == "embedded":
        return EmbeddedTransport(Path(description["path"]), lease=LEASE)
    return KafkaTransport(
        description["bootstrap_servers"],
        max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
        session_timeout_ms=SESSION_TIMEOUT_MS,
        publish_timeout=10.0,
        partitions=description["partitions"],
    )


class Member:
    """A consumer in a separate process, which can be killed."""

    def __init__(self, description: dict[str, Any], **job: str) -> None:
        command = [sys.executable, "-m", "tests.support.transport_member", json.dumps({**description, **job})]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read_report(self) -> dict[str, Any]:
        """Return the member's next report. Raises AssertionError if it has died."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the member ended with status {self.process.wait()}"
        report: dict[str, Any] = json.loads(line)
        return report

    def send(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@dataclass
class Backend:
    """One engine under test."""

    description: dict[str, Any]

    def __post_init__(self) -> None:
        self._opened: list[Transport] = []
        self._members: list[Member] = []

    @property
    def partitions(self) -> int:
        return int(self.description["partitions"])

    @property
    def stores_outputs_with_the_offset(self) -> bool:
        """True if outputs and offset become durable in one transaction, which a crash cannot split."""
        return bool(self.description["engine"] == "embedded")

    def open(self) -> Transport:
        """Open a separate connection, which is closed after the test."""
        transport = open_transport(self.description)
        self._opened.append(transport)
        return transport

    def topic(self, purpose: str = "jobs") -> str:
        """Create an empty topic and return its name."""
        name = f"{purpose}-{uuid.uuid4().hex[:12]}"
        self.open().ensure_topics([Topic(name, retention=3600)])
        return name

    def member(self, topic: str, group: str, **job: str) -> Member:
        """Start a member of ``group`` in another process."""
        member = Member(self.description, topic=topic, group=group, **job)
        self._members.append(member)
        return member

    def close(self) -> None:
        for member in self._members:
            member.end()
        closers = [threading.Thread(target=transport.close) for transport in self._opened]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join()


@contextmanager
def embedded(path: Path) -> Iterator[Backend]:
    backend = Backend({"engine": "embedded", "path": str(path / "broker.sqlite"), "partitions": 1})
    yield backend
    backend.close()


@contextmanager
def kafka(bootstrap_servers: str, partitions: int) -> Iterator[Backend]:
    backend = Backend({"engine": "kafka", "bootstrap_servers": bootstrap_servers, "partitions": partitions})
    yield backend
    backend.close()
