"""A processor without its consumer loop: real sources, stores and processes; the child does as it is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from pipeline.cancellation import CancelToken
from pipeline.consuming.consumer import JobContext, Outcome
from pipeline.errors import PipelineError
from pipeline.messages import SeparationResult, SeparationTask, from_message
from pipeline.service.shutdown import StopSignal
from pipeline.service.workdir import WorkDir
from pipeline.storage.local.store import LocalStore
from pipeline.storage.s3.store import S3Options, S3Store
from pipeline.transport import Topic
from pipeline.transport.embedded.transport import EmbeddedTransport
from processor.ipc import ChildSettings
from processor.job import Equipment
from processor.service import Processor
from processor.workers.devices import Device
from processor.workers.supervisor import WorkerSupervisor
from tests.processor.pipeline_harness import EVENTS, equip
from tests.processor.source_files import noise, write_pcm
from tests.processor.worker_threads import DEADLINE, Lanes, eventually, open_lanes
from tests.processor.workers.children import scripted_command
from tests.support.source_server import SourceServer, silence


@dataclass(frozen=True)
class Bench:
    """A processor without its loop."""

    root: Path
    equipment: Equipment
    processor: Processor
    stop: StopSignal
    source: SourceServer
    store: SourceServer
    """Takes what it is sent and does not answer."""
    lanes: Lanes

    def job(self, path: str = "/song", **fields: Any) -> Job:
        """One delivery."""
        task = SeparationTask(task_uuid=uuid4(), audio=self.source.url(path), hook_url="http://client/hook", **fields)
        return Job(self, task, JobContext(CancelToken(), 1))

    def work_folders(self) -> set[str]:
        """Of jobs."""
        return {path.name for path in self.equipment.workdir.path.iterdir()} - {"lock"}

    def tell(self, job: int) -> None:
        """The child may finish its ``job``-th job."""
        (self.root / f"go-{job}").touch()

    def wait_for_line(self, length: int) -> None:
        """Until so many jobs are at the device and before it."""
        eventually(lambda: len(self.equipment.pool.dispatcher._tickets) == length)


@dataclass(frozen=True)
class Job:
    """One delivery in the hands of one lane."""

    bench: Bench
    task: SeparationTask
    context: JobContext

    def handle(self) -> Future[Outcome]:
        """As the loop does."""
        return self.bench.lanes.start(self.bench.processor.handle, self.task, self.context)

    def failure(self) -> PipelineError:
        """Of one try."""
        error = self.handle().exception(DEADLINE)
        assert isinstance(error, PipelineError), error
        return error

    def separate(self) -> SeparationResult:
        return result_of(self.handle())

    def stems(self) -> dict[str, bytes]:
        """What is in the hand-off."""
        folder = self.bench.root / "handoff" / "handoff" / str(self.task.task_uuid)
        return {path.name.rpartition("-")[0]: path.read_bytes() for path in folder.iterdir()}


def result_of(handling: Future[Outcome]) -> SeparationResult:
    outcome = handling.result(DEADLINE)
    assert outcome.end == "separated"
    (message,) = outcome.outputs
    return from_message(SeparationResult, message)


def scripted_process(root: Path, label: str, *behaviours: str) -> WorkerSupervisor:
    """Its children show ``behaviours``, one after the other."""
    root.mkdir(exist_ok=True)
    settings = ChildSettings(root, "model.onnx", False, root)
    return WorkerSupervisor(settings, scripted_command(root, *behaviours), device=Device(label))


@contextmanager
def open_bench(
    root: Path, *behaviours: str, others: Sequence[Sequence[str]] = (), silent_store: bool = False, **options: Any
) -> Iterator[Bench]:
    """``behaviours`` are those of one child after the other, ``others`` those of further ones beside it, which have the
    folders ``1``, ``2``, … for what they tell and are told. ``options`` are those of ``equip``. With ``silent_store``,
    the hand-off is one that does not answer."""
    transport, workdir, stop = EmbeddedTransport(root / "broker.sqlite"), WorkDir(root / "work"), StopSignal(DEADLINE)
    transport.ensure_topics([Topic(EVENTS, None)])
    processes = [scripted_process(root, "0", *behaviours)]
    processes += [scripted_process(root / str(place), str(place), *other) for place, other in enumerate(others, 1)]
    with SourceServer() as source, SourceServer() as store, open_lanes() as lanes:
        store.otherwise(silence)
        handoff = silent_s3(store) if silent_store else LocalStore(root / "handoff")
        source.serve_bytes("/song", write_pcm(root / "song.wav", noise(0.2)).read_bytes())
        equipment = equip(processes, transport, handoff, workdir, stop, **options)
        try:
            yield Bench(root, equipment, Processor(equipment, "results"), stop, source, store, lanes)
        finally:
            stop.request("the test is over")
            equipment.pool.close()
    workdir.close()
    transport.close()


def silent_s3(server: SourceServer) -> S3Store:
    """As a client sees it."""
    url = server.url("")
    return S3Store(S3Options(bucket="stems", endpoint_url=url, access_key_id="key", secret_access_key="secret"))
