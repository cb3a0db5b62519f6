"""A worker joins its group when it can work, leaves it while it cannot, and rejoins."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest

from pipeline.backoff import Backoff
from pipeline.consuming.circuit_breaker import CircuitBreaker
from pipeline.consuming.handler import JobContext, Outcome
from pipeline.consuming.retry import RetryPolicy
from pipeline.consuming.worker_process import HealthAddress, WorkerProcess
from pipeline.errors import ErrorCode, InfrastructureError, PipelineError
from pipeline.messages import SeparationTask, to_message
from pipeline.service.shutdown import StopSignal
from pipeline.topics import RetryTopic, Topics
from pipeline.transport.embedded.transport import EmbeddedTransport
from pipeline.transport.protocol import Topic, Transport

DEADLINE = 20.0
TOPICS = Topics(
    tasks={1: "p1", 2: "p2", 3: "tasks", 4: "p4", 5: "p5"},
    bulk="bulk",
    results="results",
    events="events",
    retries=(RetryTopic("retry", 0.1),),
    dead_letters="dead",
    pulse="pulse",
    retention=3600.0,
)


@dataclass
class Store:
    """What a worker depends on."""

    usable: bool = True
    checked: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def check(self) -> None:
        self.checked.release()
        self.use()

    def use(self) -> None:
        if not self.usable:
            raise InfrastructureError("the bucket does not exist", code=ErrorCode.STORAGE_UNAVAILABLE)


@dataclass
class Worker:
    """A worker whose jobs do nothing but use the store."""

    transport: Transport
    store: Store
    stop: StopSignal = field(default_factory=lambda: StopSignal(grace=10_000.0))
    done: list[str] = field(default_factory=list)
    settled: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __post_init__(self) -> None:
        process = WorkerProcess(
            transport=self.transport,
            topics=TOPICS,
            sources=TOPICS.jobs,
            group="workers",
            job=SeparationTask,
            handler=self,
            policy=RetryPolicy(delays=(0.1,), infrastructure=Backoff(base=0.01, cap=0.02)),
            concurrency=1,
            health=HealthAddress("127.0.0.1", 0, "PORT"),
            checks={"storage": self.store.check},
            breaker=CircuitBreaker(patience=0.1),
        )
        self.thread = threading.Thread(target=process.run, args=(self.stop,))
        self.thread.start()

    def begin(self, task: SeparationTask, context: JobContext) -> Work:
        return Work(self, task)

    def on_failure(self, task: SeparationTask, error: PipelineError) -> Outcome:
        raise AssertionError("no job fails")

    def close(self) -> None:
        self.stop.request("the test is over")
        self.thread.join(DEADLINE)
        assert not self.thread.is_alive()


@dataclass
class Work:
    worker: Worker
    task: SeparationTask

    def handle(self) -> Outcome:
        self.worker.store.use()
        self.worker.done.append(str(self.task.task_uuid))
        return Outcome()

    def close(self) -> None:
        self.worker.settled.release()


@dataclass
class Group:
    path: Path
    workers: list[Worker] = field(default_factory=list)
    transports: list[Transport] = field(default_factory=list)

    def open(self) -> Transport:
        self.transports.append(EmbeddedTransport(self.path / "broker.sqlite"))
        return self.transports[-1]

    def worker(self, store: Store) -> Worker:
        self.workers.append(Worker(self.open(), store))
        return self.workers[-1]

    def publish(self, count: int) -> set[str]:
        tasks = [SeparationTask(task_uuid=uuid4(), audio="", hook_url="") for _ in range(count)]
        self.open().publish(*(to_message("tasks", task) for task in tasks))
        return {str(task.task_uuid) for task in tasks}


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    group = Group(tmp_path)
    group.open().ensure_topics([Topic(name, None) for name in (*TOPICS.jobs, "retry", "dead")])
    yield group
    for worker in group.workers:
        worker.close()
    for transport in group.transports:
        transport.close()


def wait(semaphore: threading.Semaphore, count: int) -> None:
    for _ in range(count):
        assert semaphore.acquire(timeout=DEADLINE)


def test_worker_whose_store_is_unusable_takes_no_job_from_a_good_one(group: Group) -> None:
    bad, good = group.worker(Store(usable=False)), group.worker(Store())
    wait(bad.store.checked, 2)
    published = group.publish(10)
    wait(good.settled, 10)
    assert set(good.done) == published
    good.close()

    bad.store.usable = True
    last = group.publish(1)
    wait(bad.settled, 1)
    assert set(bad.done) == last


def test_worker_whose_circuit_stays_open_leaves_its_jobs_to_others_and_rejoins(group: Group) -> None:
    bad = group.worker(Store())
    wait(bad.store.checked, 1)
    bad.store.usable = False
    published = group.publish(3)
    wait(bad.store.checked, 2)  # it has left the group and waits for its store
    good = group.worker(Store())
    wait(good.settled, 3)
    assert set(good.done) == published
    good.close()

    bad.store.usable = True
    last = group.publish(1)
    wait(bad.settled, 2)  # the job that it gave back, and the last one
    assert set(bad.done) == last


def test_worker_that_waits_for_its_store_stops_at_once(group: Group) -> None:
    worker = group.worker(Store(usable=False))
    wait(worker.store.checked, 1)
    worker.close()
    assert worker.done == []
