"""Two real children with the demo model: concurrent work, and the death of one of them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import psutil
import pytest

from demo.centre_model import DEMO_MODEL_NAME
from pipeline.cancellation import CancelToken
from pipeline.errors import ErrorCode, PoisonError
from pipeline.messages import SeparationResult, from_message
from pipeline.service.metrics import REGISTRY
from pipeline.service.shutdown import StopSignal
from processor.audio.decode import Mixture
from processor.ipc import Done
from processor.workers.devices import Device
from processor.workers.pool import WorkerPool
from processor.workers.supervisor import WorkerSupervisor
from tests.processor.child_settings import child_settings
from tests.processor.pipeline_harness import RESULTS, running_processor
from tests.processor.source_files import decoded, noise, write_pcm
from tests.processor.worker_threads import eventually, open_worker_threads
from tests.support.source_server import SourceServer

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[3]
DEADLINE = 60.0
SEEN = ("GPU-aaaa", "")
CREDENTIALS = (
    "AWS_SECRET_ACCESS_KEY",
    "S3_SECRET_KEY",
    "KAFKA_SASL_PASSWORD",
    "BASIC_AUTH_PASSWORD",
    "WEBHOOK_SECRET",
    "DOWNLOAD_PROXY",
    "HF_TOKEN",
)


@pytest.fixture(scope="module")
def pair(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WorkerSupervisor, ...]]:
    """Yield two ready children. A missing GPU is no error for them, because no GPU is required."""
    settings = child_settings(
        model_dir,
        DEMO_MODEL_NAME,
        tmp_path_factory.mktemp("scratch"),
        children_on_device=1,
        children_on_machine=2,
        threads=1,
    )
    numbers = count(1)
    processes = tuple(
        WorkerSupervisor(settings, device=Device(str(place), visible), numbers=numbers)
        for place, visible in enumerate(SEEN)
    )
    cancel = CancelToken()
    pool = WorkerPool(processes, StopSignal(DEADLINE))
    with pytest.MonkeyPatch.context() as environment:
        for name in CREDENTIALS:
            environment.setenv(name, "secret")
        pool.start(cancel)
        eventually(lambda: all(process.ready for process in processes), DEADLINE)
    cancel.cancel(ErrorCode.SHUTTING_DOWN)  # the tests have their own pools
    yield processes
    pool.close()


@pytest.fixture
def songs(tmp_path: Path) -> list[Mixture]:
    mixtures = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        mixtures.append(decoded(write_pcm(folder / "song.wav", noise(8.0), subtype="FLOAT")).mixture)
    return mixtures


def separate(process: WorkerSupervisor, song: Mixture, on_progress: Callable[[float], None]) -> Done:
    return process.separate(
        song,
        song.path.parent,
        model=None,
        stems=None,
        timeout=DEADLINE,
        cancel=CancelToken(),
        on_progress=on_progress,
    )


def variables(process: WorkerSupervisor) -> dict[str, str]:
    """Return the environment variables of the child."""
    return psutil.Process(process.pid).environ()


def busy_seconds(process: WorkerSupervisor) -> float:
    return REGISTRY.get_sample_value("uvr_engine_busy_seconds_total", {"device": process.device.label}) or 0.0


def test_each_child_has_its_device_and_its_share_of_the_cores(pair: tuple[WorkerSupervisor, ...]) -> None:
    assert [variables(process)["CUDA_VISIBLE_DEVICES"] for process in pair] == list(SEEN)
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    assert [variables(process)["OMP_NUM_THREADS"] for process in pair] == [threads] * 2
    assert [process.models for process in pair] == [{DEMO_MODEL_NAME}] * 2


def test_children_inherit_no_credential(pair: tuple[WorkerSupervisor, ...]) -> None:
    for process in pair:
        environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        assert b"PATH=" in environment
        assert b"secret" not in environment
        assert not [name for name in CREDENTIALS if name.encode() in environment]


def test_one_child_dies_while_both_work(pair: tuple[WorkerSupervisor, ...], songs: list[Mixture]) -> None:
    """The survivor's result is not affected; the dead child is replaced."""
    doomed, other = pair
    pids = [process.pid for process in pair]
    both_at_work = threading.Barrier(2)
    died = threading.Event()

    def kill_it(_fraction: float) -> None:
        both_at_work.wait(DEADLINE)
        assert doomed.pid
        os.kill(doomed.pid, signal.SIGKILL)
        died.set()

    progress: list[float] = []

    def wait_for_it(fraction: float) -> None:
        if not progress:
            both_at_work.wait(DEADLINE)
            assert died.wait(DEADLINE)
        progress.append(fraction)

    with open_worker_threads() as threads:
        one, two = (
            threads.start(separate, doomed, songs[0], kill_it),
            threads.start(separate, other, songs[1], wait_for_it),
        )
        assert isinstance(one.exception(DEADLINE), PoisonError)
        survivor_result = two.result(DEADLINE)
    assert other.pid == pids[1]
    again = separate(doomed, songs[0], lambda _fraction: None)
    assert doomed.pid != pids[0]
    assert [stem.sha256 for stem in again.stems] == [stem.sha256 for stem in survivor_result.stems]


def test_consumer_separates_two_songs_concurrently(pair: tuple[WorkerSupervisor, ...], tmp_path: Path) -> None:
    content = write_pcm(tmp_path / "song.wav", noise(3.0)).read_bytes()
    before = [busy_seconds(process) for process in pair]
    with SourceServer() as source, running_processor(tmp_path, *pair, concurrency=4) as way:
        source.serve_bytes("/song", content)
        sent = {way.send(source.url("/song")) for _ in range(5)}
        results = [from_message(SeparationResult, way.next_message(RESULTS)) for _ in sent]
    assert {result.task_uuid for result in results} == sent
    assert {result.status for result in results} == {"success"}
    assert len({stem.sha256 for result in results for stem in result.stems}) == 2
    assert all(busy_seconds(process) > earlier for process, earlier in zip(pair, before, strict=True))
