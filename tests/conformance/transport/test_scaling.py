"""Test of scaling under load: nothing is lost, all members get work, repeats are counted."""

from __future__ import annotations

import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from devstack.kafka.broker import KafkaBroker
from pipeline.transport.protocol import Message
from tests.conformance.transport import backends
from tests.conformance.transport.backends import NEEDS_KAFKA, Backend, Member

TIMEOUT = 60.0
JOBS = 300
PARTITIONS = 12

pytestmark = [*NEEDS_KAFKA, pytest.mark.slow]


@pytest.fixture
def backend(kafka_broker: KafkaBroker) -> Iterator[Backend]:
    with backends.kafka(kafka_broker.bootstrap_servers, partitions=PARTITIONS) as opened:
        yield opened


class Results:
    """The results published by the members, by job."""

    def __init__(self, backend: Backend, topic: str, group: str) -> None:
        self._subscription = backend.open().subscribe([topic], f"{group}-results")
        self.producers: dict[str, list[str]] = {}
        self.counts: Counter[str] = Counter()
        """Number of results by producer since the last call of ``read``."""

    def read(self, jobs: int) -> None:
        """Read results until ``jobs`` different jobs are done."""
        self.counts = Counter()
        while len(self.producers) < jobs:
            self._take(TIMEOUT, required=True)

    def read_remaining(self) -> None:
        """Read all further results."""
        while self._take(2.0, required=False):
            pass

    def _take(self, timeout: float, *, required: bool) -> bool:
        delivery = self._subscription.receive(timeout)
        assert delivery is not None or not required, (
            f"{len(self.producers)} jobs are done, and no further result arrives"
        )
        if delivery is None:
            return False
        self._subscription.settle(delivery)
        producer = delivery.message.value.decode()
        self.producers.setdefault(delivery.message.key, []).append(producer)
        self.counts[producer] += 1
        return True


def test_scaling_from_one_to_four_members_and_back(backend: Backend, topic: str, group: str) -> None:
    output = backend.topic("results")
    results = Results(backend, output, group)
    publisher = threading.Thread(target=publish_steadily, args=(backend, topic))

    first = serve(backend, topic, group, output)
    publisher.start()
    results.read(40)
    others = [serve(backend, topic, group, output) for _ in range(3)]
    results.read(160)
    results.read(220)
    shares = results.counts
    for member in others:
        member.process.send_signal(signal.SIGTERM)
    results.read(JOBS)
    publisher.join()
    results.read_remaining()

    repeats = sum(len(producers) - 1 for producers in results.producers.values())
    sys.stdout.write(f"{JOBS} jobs, scaled 1 - 4 - 1: 0 lost, {repeats} repeated; shares of four: {dict(shares)}\n")
    assert len(results.producers) == JOBS
    assert len(shares) == 4, "a member that joined received no job"
    assert [member.process.wait(TIMEOUT) for member in others] == [0, 0, 0]
    assert first.process.poll() is None
    # A member that shuts down finishes its jobs first; a revoked partition repeats the jobs in progress.
    assert repeats <= 4 * 2


def serve(backend: Backend, topic: str, group: str, output: str) -> Member:
    member = backend.member(topic, group, mode="serve", output=output)
    assert member.read_report() == {"event": "serving"}
    return member


def publish_steadily(backend: Backend, topic: str) -> None:
    """Publish faster than one member works, so that a backlog exists before the others join."""
    transport, pause = backend.open(), threading.Event()
    for number in range(JOBS):
        transport.publish(Message(topic, f"job-{number}", b""))
        pause.wait(0.02)
