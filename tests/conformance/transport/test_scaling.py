"""Members come and go under load, as when a service is scaled: nothing is lost, all work, repeats are counted."""

from __future__ import annotations

import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from devstack.kafka import KafkaBroker
from pipeline.transport.protocol import Message
from tests.conformance.transport import backends
from tests.conformance.transport.backends import NEEDS_KAFKA, Backend, Member

PATIENCE = 60.0
JOBS = 300
PARTITIONS = 12

pytestmark = [*NEEDS_KAFKA, pytest.mark.slow]


@pytest.fixture
def backend(kafka_broker: KafkaBroker) -> Iterator[Backend]:
    with backends.kafka(kafka_broker.bootstrap_servers, partitions=PARTITIONS) as opened:
        yield opened


class Results:
    """What the members have published, by job, as it comes in."""

    def __init__(self, backend: Backend, topic: str, group: str) -> None:
        self._subscription = backend.open().subscribe([topic], f"{group}-results")
        self.makers: dict[str, list[str]] = {}
        self.since: Counter[str] = Counter()
        """Jobs by their maker since the last look."""

    def read(self, jobs: int) -> None:
        """Until so many different jobs are done."""
        self.since = Counter()
        while len(self.makers) < jobs:
            self._take(PATIENCE, required=True)

    def read_rest(self) -> None:
        """Whatever else is there."""
        while self._take(2.0, required=False):
            pass

    def _take(self, timeout: float, *, required: bool) -> bool:
        delivery = self._subscription.receive(timeout)
        assert delivery is not None or not required, f"{len(self.makers)} jobs are done, and no more come"
        if delivery is None:
            return False
        self._subscription.settle(delivery)
        maker = delivery.message.value.decode()
        self.makers.setdefault(delivery.message.key, []).append(maker)
        self.since[maker] += 1
        return True


def test_from_one_to_four_and_back(backend: Backend, topic: str, group: str) -> None:
    output = backend.topic("results")
    results = Results(backend, output, group)
    publisher = threading.Thread(target=publish_steadily, args=(backend, topic))

    first = serve(backend, topic, group, output)
    publisher.start()
    results.read(40)
    others = [serve(backend, topic, group, output) for _ in range(3)]
    results.read(160)
    results.read(220)
    shares = results.since
    for member in others:
        member.process.send_signal(signal.SIGTERM)
    results.read(JOBS)
    publisher.join()
    results.read_rest()

    repeats = sum(len(makers) - 1 for makers in results.makers.values())
    sys.stdout.write(f"{JOBS} jobs, scaled 1 - 4 - 1: 0 lost, {repeats} repeated; shares of four: {dict(shares)}\n")
    assert len(results.makers) == JOBS
    assert len(shares) == 4, "a member that joined got nothing to do"
    assert [member.process.wait(PATIENCE) for member in others] == [0, 0, 0]
    assert first.process.poll() is None
    # Whoever leaves in good order ends its jobs first; a partition that moves away takes the jobs in hand with it.
    assert repeats <= 4 * 2


def serve(backend: Backend, topic: str, group: str, output: str) -> Member:
    member = backend.member(topic, group, mode="serve", output=output)
    assert member.says() == {"event": "serving"}
    return member


def publish_steadily(backend: Backend, topic: str) -> None:
    """More than one member can do, so that a backlog builds up before the others come."""
    transport, pause = backend.open(), threading.Event()
    for number in range(JOBS):
        transport.publish(Message(topic, f"job-{number}", b""))
        pause.wait(0.02)
