"""A processor on the embedded transport and a local hand-off, fed by a real HTTP server, its consumer loop running."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from pipeline.backoff import Backoff
from pipeline.consuming.consumer import Consumer
from pipeline.consuming.retry import RetryPolicy
from pipeline.download import DownloadLimits, UrlGuard
from pipeline.messages import SeparationResult, SeparationTask, TaskEvent, from_message, to_message
from pipeline.progress import EventReporter
from pipeline.service.shutdown import StopSignal
from pipeline.service.workdir import WorkDir
from pipeline.storage import ObjectStore
from pipeline.storage.local.store import LocalStore
from pipeline.transport import Message, Topic, Transport
from pipeline.transport.embedded.transport import EmbeddedTransport
from processor.disk_budget import DiskBudget
from processor.job import Equipment, JobLimits
from processor.service import Processor
from processor.workers.pool import WorkerPool
from processor.workers.supervisor import WorkerSupervisor

DEADLINE = 60.0
TASKS, RETRIES, RESULTS, EVENTS, DEAD = TOPICS = ("tasks", "retries", "results", "events", "dead")

LIMITS = JobLimits(
    download=DownloadLimits(max_bytes=10_000_000, connect_timeout=5, stall_timeout=5, total_timeout=20),
    max_seconds=20,
    job_timeout=DEADLINE,
    job_timeout_base=DEADLINE,
    job_timeout_factor=1,
)
DELAY = 0.01
POLICY = RetryPolicy(max_attempts=3, max_crashes=2, delays=(DELAY,), infrastructure=Backoff(0.01, 0.02))


@dataclass(frozen=True)
class Way:
    """From the topic of tasks to the topic of results."""

    transport: EmbeddedTransport
    handoff: LocalStore
    root: Path

    def send(self, audio: str, task_uuid: UUID | None = None, **fields: Any) -> UUID:
        """Queue a task."""
        task = SeparationTask(task_uuid=task_uuid or uuid4(), audio=audio, hook_url="http://client/hook", **fields)
        self.transport.publish(to_message(TASKS, task))
        return task.task_uuid

    def separate(self, audio: str, task_uuid: UUID | None = None, **fields: Any) -> SeparationResult:
        """Queue a task and wait for its result."""
        sent = self.send(audio, task_uuid, **fields)
        result = from_message(SeparationResult, self.next_message(RESULTS))
        assert result.task_uuid == result.task.task_uuid == sent
        return result

    def next_message(self, topic: str) -> Message:
        """The next one that no test has seen."""
        subscription = self.transport.subscribe([topic], "tests")
        delivery = subscription.receive(DEADLINE)
        assert delivery is not None, f"nothing came to {topic}"
        subscription.settle(delivery)
        subscription.close()
        return delivery.message

    def events(self) -> list[TaskEvent]:
        """Everything that was reported so far."""
        return [from_message(TaskEvent, stored.message) for stored in self.transport.browse(EVENTS)]

    def stem_files(self) -> set[str]:
        """Keys in the hand-off."""
        files = (path for path in (self.root / "handoff").rglob("*.wav") if "~" not in str(path))
        return {str(path.relative_to(self.root / "handoff")) for path in files}


def equip(
    processes: Sequence[WorkerSupervisor],
    transport: Transport,
    handoff: ObjectStore,
    workdir: WorkDir,
    stop: StopSignal,
    *,
    prefetch_bytes: int = 10**9,
    limits: JobLimits = LIMITS,
) -> Equipment:
    """What a processor's jobs share."""
    return Equipment(
        pool=WorkerPool(processes, stop),
        budget=DiskBudget(prefetch_bytes, stop, len(processes)),
        handoff=handoff,
        guard=UrlGuard(allow_private=True),
        reporter=EventReporter(transport, EVENTS),
        workdir=workdir,
        limits=limits,
    )


@contextmanager
def open_way(root: Path, *processes: WorkerSupervisor, lanes: int = 2) -> Iterator[Way]:
    """A processor at work. When it is told to stop it must have left no working files behind."""
    transport = EmbeddedTransport(root / "broker.sqlite")
    transport.ensure_topics([Topic(name, None) for name in TOPICS])
    workdir, handoff, stop = WorkDir(root / "work"), LocalStore(root / "handoff"), StopSignal(DEADLINE)
    consumer: Consumer[SeparationTask] = Consumer(
        subscription=transport.subscribe([TASKS, RETRIES], "processors"),
        parse=lambda message: from_message(SeparationTask, message),
        worker=Processor(equip(processes, transport, handoff, workdir, stop), RESULTS),
        policy=POLICY,
        sources=frozenset([TASKS]),
        retry_topics={DELAY: RETRIES},
        dead_letter_topic=DEAD,
        stop=stop,
        lanes=lanes,
    )
    running = threading.Thread(target=consumer.run, name="consumer")
    running.start()
    try:
        yield Way(transport, handoff, root)
    finally:
        stop.request("the test is over")
        running.join(DEADLINE)
        assert not running.is_alive()
        left = [path.name for path in workdir.path.iterdir()]
        workdir.close()
        transport.close()
    assert left == ["lock"]
    assert [path.name for path in (root / "work").iterdir()] == [".job-files.lock"]
