"""The real child, with the demo model."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from demo.centre_model import DEMO_MODEL_NAME, write_demo_model
from demo.sdr import sdr_db
from demo.song import render_song
from pipeline.cancellation import CancelToken
from pipeline.errors import CancelledError, ErrorCode, InfrastructureError, PermanentError, PoisonError
from processor.audio.decode import Mixture
from processor.ipc import Done, ModelLoaded, Progress, Report, Started
from processor.workers.process import ChildProcess, Exited
from processor.workers.supervisor import OnProgress, WorkerSupervisor
from tests.processor.source_files import decoded, noise, write_pcm

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[3]
DEADLINE = 60.0


def separate(
    warm: WorkerSupervisor,
    mixture: Mixture,
    *,
    model: str | None = None,
    stems: tuple[str, ...] | None = None,
    cancel: CancelToken | None = None,
    on_progress: OnProgress = lambda fraction: None,
) -> Done:
    return warm.separate(
        mixture,
        mixture.path.parent,
        model=model,
        stems=stems,
        timeout=DEADLINE,
        cancel=cancel or CancelToken(),
        on_progress=on_progress,
    )


def pid_of(warm: WorkerSupervisor) -> int:
    """Return the process id of the child, once it is ready."""
    warm.start(CancelToken())
    assert warm.pid is not None
    return warm.pid


@pytest.fixture
def song(tmp_path: Path) -> Mixture:
    return decoded(write_pcm(tmp_path / "song.wav", noise(15.0), subtype="FLOAT")).mixture


@pytest.fixture
def short(tmp_path: Path) -> Mixture:
    return decoded(write_pcm(tmp_path / "short.wav", noise(0.1), subtype="FLOAT")).mixture


def test_song_is_separated(warm: WorkerSupervisor, tmp_path: Path) -> None:
    song = render_song(seconds=8)
    progress: list[float] = []
    mixture = decoded(write_pcm(tmp_path / "song.wav", song.mixture * np.float32(0.3), subtype="FLOAT")).mixture

    done = separate(warm, mixture, on_progress=progress.append)

    assert (done.model, done.device) == (DEMO_MODEL_NAME, "cpu")
    assert progress[0] == 0.0
    assert progress == sorted(progress)
    (vocals,) = (stem for stem in done.stems if stem.name == "vocals")
    assert vocals.path.parent == mixture.path.parent
    sung = soundfile.read(vocals.path, dtype="float32")[0].T / np.float32(0.3)
    assert sdr_db(song.vocals, sung) - sdr_db(song.vocals, song.mixture) > 6


def test_model_stays_loaded_between_jobs(warm: WorkerSupervisor, song: Mixture) -> None:
    pid = pid_of(warm)
    first, second = (separate(warm, song) for _ in range(2))
    assert [stem.sha256 for stem in first.stems] == [stem.sha256 for stem in second.stems]
    assert pid_of(warm) == pid


def test_child_reports_the_phases_of_a_job(
    warm: WorkerSupervisor, short: Mixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    next_report = ChildProcess.next_report
    report_types: list[type] = []

    def record_report(child: ChildProcess) -> Report | Exited | None:
        report = next_report(child)
        report_types.append(type(report))
        return report

    warm.start(CancelToken())
    monkeypatch.setattr(ChildProcess, "next_report", record_report)
    separate(warm, short)
    assert list(dict.fromkeys(kind for kind in report_types if kind is not type(None))) == [
        Started,
        ModelLoaded,
        Progress,
        Done,
    ]


def test_child_survives_a_refused_job(warm: WorkerSupervisor, short: Mixture) -> None:
    pid = pid_of(warm)
    with pytest.raises(PermanentError) as caught:
        separate(warm, short, stems=("drums",))
    assert caught.value.code is ErrorCode.STEM_UNKNOWN
    with pytest.raises(PermanentError) as caught:
        separate(warm, short, model="no-such-model.onnx")
    assert caught.value.code is ErrorCode.MODEL_UNKNOWN
    assert len(separate(warm, short).stems) == 2
    assert pid_of(warm) == pid


def test_cancelled_job_keeps_the_model_loaded(warm: WorkerSupervisor, song: Mixture) -> None:
    pid = pid_of(warm)
    cancel = CancelToken()
    with pytest.raises(CancelledError) as caught:
        separate(warm, song, cancel=cancel, on_progress=lambda _: cancel.cancel(ErrorCode.DELIVERY_LOST))
    assert caught.value.code is ErrorCode.DELIVERY_LOST
    assert [path.name for path in song.path.parent.iterdir()] == ["mixture.wav"]
    assert len(separate(warm, song).stems) == 2
    assert pid_of(warm) == pid


def test_full_disk_is_not_blamed_on_job_or_child(warm: WorkerSupervisor, song: Mixture) -> None:
    pid = pid_of(warm)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    with pytest.raises(InfrastructureError) as caught:
        separate(warm, song)
    assert caught.value.code is ErrorCode.DISK_FULL
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert len(separate(warm, song).stems) == 2
    assert pid_of(warm) == pid


def test_child_ignores_sigint(warm: WorkerSupervisor, short: Mixture) -> None:
    """A terminal sends SIGINT to both processes; the parent decides whether to finish the job."""
    pid = pid_of(warm)
    os.kill(pid, signal.SIGINT)
    assert len(separate(warm, short).stems) == 2
    assert pid_of(warm) == pid


def test_child_killed_during_a_job_is_replaced(warm: WorkerSupervisor, song: Mixture) -> None:
    """The kernel does this when it is out of memory."""
    pid = pid_of(warm)
    with pytest.raises(PoisonError) as caught:
        separate(warm, song, on_progress=lambda _: os.kill(pid, signal.SIGKILL))
    assert (caught.value.code, caught.value.message) == (
        ErrorCode.WORKER_DIED,
        "the separation process was ended by signal 9",
    )
    assert not psutil.pid_exists(pid)
    assert len(separate(warm, song).stems) == 2
    assert pid_of(warm) != pid


PARENT_PROGRAM = """
import sys
import threading
from pathlib import Path
from pipeline.cancellation import CancelToken
from processor.workers.supervisor import WorkerSupervisor
from tests.processor.child_settings import child_settings
process = WorkerSupervisor(child_settings(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
print(process._ensure_child().pid, flush=True)
process.start(CancelToken())
"""


def test_child_exits_with_its_parent(model_dir: Path, tmp_path: Path) -> None:
    """A child that is loading exits too, even if its parent is killed."""
    arguments = [str(model_dir), DEMO_MODEL_NAME, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", PARENT_PROGRAM, *arguments], cwd=REPOSITORY, stdout=pipe, stderr=pipe, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        child = psutil.Process(int(parent.stdout.readline()))
        # The child has its settings once it loads the library.
        while not any("torch" in region.path for region in child.memory_maps()):
            threading.Event().wait(0.05)
        parent.kill()
        # The child has this descriptor too: reading ends when both processes have exited.
        logged = parent.stderr.read()
    assert "model_warmed_up" not in logged  # it did not finish loading first


SETUP_PROGRAM = """
import gc, sys, weakref
from multiprocessing import Pipe
from pathlib import Path
from processor.ipc import COMMANDS, REPORTS
from processor.system.channel import Channel
from processor.workers.child import ParentConnection, _set_up
from processor.system.memory import MainMemory
from tests.processor.child_settings import child_settings
models, scratch, name = sys.argv[1:]
parent = ParentConnection(Channel(Pipe()[0], sends=REPORTS, receives=COMMANDS))
engine = _set_up(child_settings(Path(models), name, Path(scratch)), parent)
print(gc.get_freeze_count(), len(gc.get_objects()))
engine.cycle, reference = engine, weakref.ref(engine)
del engine
gc.collect()
print(reference() is None)
MainMemory().give_back()
print(reference() is None)
print(gc.get_freeze_count(), len(gc.get_objects()))
"""


def test_garbage_collection_skips_loaded_libraries(tmp_path: Path) -> None:
    write_demo_model(tmp_path / "models")
    command = [sys.executable, "-c", SETUP_PROGRAM, str(tmp_path / "models"), str(tmp_path), DEMO_MODEL_NAME]
    run = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, check=True, text=True)
    at_start, kept, released, at_end = [line for line in run.stdout.splitlines() if "[" not in line]
    for counts in (at_start, at_end):
        frozen, scanned = map(int, counts.split())
        assert scanned < frozen / 10
    # The memory of a model is released when it is needed.
    assert (kept, released) == ("False", "True")
