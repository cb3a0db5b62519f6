"""A processor without its consumer loop: real sources, stores and processes, with scripted children."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from pipeline.cancellation import CancelToken
from pipeline.consuming.handler import JobContext, Outcome
from pipeline.errors import PipelineError
from pipeline.messages import SeparationResult, SeparationTask, from_message
from pipeline.service.shutdown import StopSignal
from pipeline.service.workdir import WorkDir
from pipeline.storage.local.store import LocalStore
from pipeline.storage.s3.store import S3Options, S3Store
from pipeline.transport import Topic
from pipeline.transport.embedded.transport import EmbeddedTransport
from processor.job import SeparationHandler, SeparationRun
from processor.workers.devices import Device
from processor.workers.supervisor import WorkerSupervisor
from tests.processor.child_settings import child_settings
from tests.processor.pipeline_harness import EVENTS, create_handler
from tests.processor.source_files import noise, write_pcm
from tests.processor.worker_threads import DEADLINE, WorkerThreads, eventually, open_worker_threads
from tests.processor.workers.children import scripted_command
from tests.support.source_server import SourceServer, silence


@dataclass(frozen=True)
class Bench:
    """A processor without its consumer loop."""

    root: Path
    handler: SeparationHandler
    stop: StopSignal
    source: SourceServer
    store: SourceServer
    """Accepts requests and never responds."""
    threads: WorkerThreads

    def job(self, path: str = "/song", **fields: Any) -> Job:
        """Return a delivery of a new task for the song at ``path``."""
        task = SeparationTask(task_uuid=uuid4(), audio=self.source.url(path), hook_url="http://client/hook", **fields)
        return Job(self, task)

    def work_folders(self) -> set[str]:
        """Return the names of the working folders of jobs."""
        return {path.name for path in self.handler.workdir.path.iterdir()} - {"lock"}

    def allow_to_finish(self, job: int) -> None:
        """Let the child finish its ``job``-th job."""
        (self.root / f"go-{job}").touch()

    def wait_for_queue(self, length: int) -> None:
        """Wait until that many jobs are at the device or queue for it."""
        eventually(lambda: len(self.handler.pool.dispatcher._tickets) == length)


@dataclass
class Job:
    """One delivery of a task."""

    bench: Bench
    task: SeparationTask
    context: JobContext = field(default_factory=lambda: JobContext(CancelToken(), attempt=1))
    run: SeparationRun | None = None

    def handle(self) -> Future[Outcome]:
        """Start one try in a worker thread, as the consumer loop does."""

        def try_once() -> Outcome:
            if self.run is None:
                self.run = self.bench.handler.begin(self.task, self.context)
            return self.run.handle()

        return self.bench.threads.start(try_once)

    def close(self) -> None:
        """Close the run, as the consumer loop does at the end of the delivery and when the run must begin again."""
        run, self.run = self.run, None
        assert run is not None
        run.close()

    def failure(self) -> PipelineError:
        """Return the error of one try."""
        error = self.handle().exception(DEADLINE)
        assert isinstance(error, PipelineError), error
        return error

    def separate(self) -> SeparationResult:
        """Return the result of one try."""
        return result_of(self.handle())

    def stems(self) -> dict[str, bytes]:
        """Return the stems in the hand-off store."""
        folder = self.bench.root / "handoff" / "handoff" / str(self.task.task_uuid)
        return {path.name.rpartition("-")[0]: path.read_bytes() for path in folder.iterdir()}


def result_of(handling: Future[Outcome]) -> SeparationResult:
    """Wait for a try that succeeds, and return its result."""
    outcome = handling.result(DEADLINE)
    assert outcome.end == "separated"
    (message,) = outcome.outputs
    return from_message(SeparationResult, message)


def scripted_process(root: Path, label: str, *behaviours: str) -> WorkerSupervisor:
    """Return a supervisor whose successive children show ``behaviours``."""
    root.mkdir(exist_ok=True)
    settings = child_settings(root, "model.onnx", root)
    return WorkerSupervisor(settings, scripted_command(root, *behaviours), device=Device(label))


@contextmanager
def open_bench(
    root: Path, *behaviours: str, others: Sequence[Sequence[str]] = (), silent_store: bool = False, **options: Any
) -> Iterator[Bench]:
    """Open a bench whose first supervisor has successive children with ``behaviours``.

    ``others`` are the behaviours of further supervisors, which use the folders ``1``, ``2``, … below ``root`` for their
    files. ``options`` are those of ``create_handler``. With ``silent_store`` the hand-off store never responds.
    """
    transport, workdir, stop = EmbeddedTransport(root / "broker.sqlite"), WorkDir(root / "work"), StopSignal(DEADLINE)
    transport.ensure_topics([Topic(EVENTS, None)])
    supervisors = [scripted_process(root, "0", *behaviours)]
    supervisors += [scripted_process(root / str(number), str(number), *other) for number, other in enumerate(others, 1)]
    with SourceServer() as source, SourceServer() as store, open_worker_threads() as threads:
        store.otherwise(silence)
        handoff = _silent_s3(store) if silent_store else LocalStore(root / "handoff")
        source.serve_bytes("/song", write_pcm(root / "song.wav", noise(0.2)).read_bytes())
        handler = create_handler(supervisors, transport, handoff, workdir, stop, **options)
        try:
            yield Bench(root, handler, stop, source, store, threads)
        finally:
            stop.request("the test is over")
            handler.pool.close()
    workdir.close()
    transport.close()


def _silent_s3(server: SourceServer) -> S3Store:
    url = server.url("")
    return S3Store(S3Options(bucket="stems", endpoint_url=url, access_key_id="key", secret_access_key="secret"))
