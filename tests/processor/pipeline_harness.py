"""A running processor on the embedded transport with a local hand-off store."""

from __future__ import annotations

import atexit
import functools
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
from processor.download_lanes import DownloadLanes
from processor.job import JobLimits, SeparationHandler
from processor.sandbox.client import AudioSandbox
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
class RunningProcessor:
    """A processor that consumes the topic of tasks and publishes to the topic of results."""

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
        """Return the next message of the topic that no earlier call has returned."""
        subscription = self.transport.subscribe([topic], "tests")
        delivery = subscription.receive(DEADLINE)
        assert delivery is not None, f"{topic} has no further message"
        subscription.settle(delivery)
        subscription.close()
        return delivery.message

    def events(self) -> list[TaskEvent]:
        """Return all events so far."""
        return [from_message(TaskEvent, stored.message) for stored in self.transport.browse(EVENTS)]

    def stem_files(self) -> set[str]:
        """Return the keys in the hand-off store."""
        files = (path for path in (self.root / "handoff").rglob("*.wav") if "~" not in str(path))
        return {str(path.relative_to(self.root / "handoff")) for path in files}


@functools.cache
def shared_sandbox() -> AudioSandbox:
    """Return the sandbox of all handlers of this process, because its server needs half a second to start."""
    sandbox = AudioSandbox()
    atexit.register(sandbox.close)
    return sandbox


def create_handler(
    supervisors: Sequence[WorkerSupervisor],
    transport: Transport,
    handoff: ObjectStore,
    workdir: WorkDir,
    stop: StopSignal,
    *,
    prefetch_bytes: int = 10**9,
    limits: JobLimits = LIMITS,
    lanes: DownloadLanes | None = None,
    sandbox: AudioSandbox | None = None,
) -> SeparationHandler:
    """Return the handler of a processor with these children and stores."""
    return SeparationHandler(
        pool=WorkerPool(supervisors, stop),
        sandbox=sandbox or shared_sandbox(),
        budget=DiskBudget(prefetch_bytes, stop, len(supervisors)),
        handoff=handoff,
        guard=UrlGuard(allow_private=True),
        reporter=EventReporter(transport, EVENTS),
        workdir=workdir,
        limits=limits,
        lanes=lanes or DownloadLanes(2, limits.download.total_timeout),
        result_topic=RESULTS,
    )


@contextmanager
def running_processor(root: Path, *supervisors: WorkerSupervisor, concurrency: int = 2) -> Iterator[RunningProcessor]:
    """Run a processor. After its shutdown it must have left no working files."""
    transport = EmbeddedTransport(root / "broker.sqlite")
    transport.ensure_topics([Topic(name, None) for name in TOPICS])
    workdir, handoff, stop = WorkDir(root / "work"), LocalStore(root / "handoff"), StopSignal(DEADLINE)
    consumer: Consumer[SeparationTask] = Consumer(
        subscription=transport.subscribe([TASKS, RETRIES], "processors"),
        parse=lambda message: from_message(SeparationTask, message),
        handler=create_handler(supervisors, transport, handoff, workdir, stop),
        policy=POLICY,
        sources=frozenset([TASKS]),
        retry_topics={DELAY: RETRIES},
        dead_letter_topic=DEAD,
        stop=stop,
        concurrency=concurrency,
    )
    thread = threading.Thread(target=consumer.run, name="consumer")
    thread.start()
    try:
        yield RunningProcessor(transport, handoff, root)
    finally:
        stop.request("the test is over")
        thread.join(DEADLINE)
        assert not thread.is_alive()
        remaining = [path.name for path in workdir.path.iterdir()]
        workdir.close()
        transport.close()
    assert remaining == ["lock"]
    assert [path.name for path in (root / "work").iterdir()] == [".job-files.lock"]
