"""One measurement, in a process of its own, of the tree in which it is started. Prints JSON.

Imports nothing of ``benchmarks``, because the tree may be another checkout.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

from pipeline.transport.embedded.transport import EmbeddedTransport
from pipeline.transport.protocol import Message, Topic

#: As many topics as a processor reads.
_TOPICS = ["tasks_p5", "tasks_p4", "tasks", "tasks_p2", "tasks_p1", "tasks_bulk", "retry_10s", "retry_1m", "retry_10m"]
_VALUE = bytes(800)
_BATCH = 1000
#: Interval between two messages during a purge, s.
_INTERVAL = 0.02


def waiting(path: Path, count: int, seconds: float) -> dict[str, float]:
    """Measure the CPU time of a member's polls and deliveries beside ``count`` messages that are not due."""
    transport = EmbeddedTransport(path, lease=3600.0)
    transport.ensure_topics([Topic(topic, None) for topic in _TOPICS])
    due = {"not-before": b"%d" % ((time.time() + 86400) * 1000)}
    for start in range(0, count, _BATCH):
        batch = range(start, min(count, start + _BATCH))
        transport.publish(*[Message("retry_10m", f"waiting-{number}", _VALUE, due) for number in batch])
    member = transport.subscribe(_TOPICS, "group")
    member.receive(seconds + count / 10_000)  # in which it looks at every message once, if it has to

    used = time.process_time()
    polls = 0
    deadline = time.monotonic() + seconds
    while polls == 0 or time.monotonic() < deadline:
        member.receive(0.0)
        polls += 1
    poll = (time.process_time() - used) / polls
    used = time.process_time()
    member.receive(seconds)
    idle = (time.process_time() - used) / seconds
    deliveries = [_delivery(transport, number) for number in range(20)]
    transport.close()
    return {"idle": idle, "poll": poll, "receive": statistics.median(deliveries)}


def _delivery(transport: EmbeddedTransport, number: int) -> float:
    """Return the CPU time of receiving one message, s."""
    (member,) = transport._subscriptions
    transport.publish(Message("retry_10m", f"ready-{number}", _VALUE))
    used = time.process_time()
    delivery = member.receive(30.0)
    used = time.process_time() - used
    assert delivery is not None
    member.settle(delivery)
    return used


def fill(path: Path, count: int, _seconds: float) -> dict[str, float]:
    """Store ``count`` reports, which the next purge drops."""
    transport = EmbeddedTransport(path)
    transport.ensure_topics([Topic("events", 0.001, reports=True), Topic("tasks", None)])
    for start in range(0, count, _BATCH):
        batch = range(start, min(count, start + _BATCH))
        transport.publish(*[Message("events", f"task-{number}", _VALUE) for number in batch])
    transport.close()
    return {}


def purge_in_background(path: Path, _count: int, _seconds: float) -> dict[str, float]:
    """Be a member, whose engine purges in the background, until standard input ends."""
    transport = EmbeddedTransport(path, lease=4.0)
    transport.subscribe(["tasks"], "group")
    sys.stdin.read()
    transport.close()
    return {}


def publish(path: Path, _count: int, seconds: float) -> dict[str, float]:
    """Publish until the reports are gone and the file has not shrunk for ``seconds``. Return the waits, s."""
    transport = EmbeddedTransport(path)
    waits: list[float] = []
    begun = changed = time.monotonic()
    size = path.stat().st_size
    purging = True
    while time.monotonic() < changed + seconds:
        started = time.monotonic()
        transport.publish(Message("tasks", "task", _VALUE))
        waits.append(time.monotonic() - started)
        if purging or path.stat().st_size < size:
            size, changed = path.stat().st_size, time.monotonic()
            purging = next(transport.browse("events"), None) is not None
        time.sleep(_INTERVAL)
    transport.close()
    return {"longest": max(waits), "median": statistics.median(waits), "seconds": changed - begun}


if __name__ == "__main__":
    measure = {"waiting": waiting, "fill": fill, "purge": purge_in_background, "publish": publish}[sys.argv[1]]
    json.dump(measure(Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])), sys.stdout)
