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
from processor.workers.process import ChildProcess, Ended
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
    """Of the child that is ready."""
    warm.start(CancelToken())
    assert warm.pid is not None
    return warm.pid


@pytest.fixture
def song(tmp_path: Path) -> Mixture:
    return decoded(write_pcm(tmp_path / "song.wav", noise(15.0), subtype="FLOAT")).mixture


@pytest.fixture
def short(tmp_path: Path) -> Mixture:
    return decoded(write_pcm(tmp_path / "short.wav", noise(0.1), subtype="FLOAT")).mixture


def test_a_song_is_separated(warm: WorkerSupervisor, tmp_path: Path) -> None:
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


def test_the_model_stays_warm_from_job_to_job(warm: WorkerSupervisor, song: Mixture) -> None:
    pid = pid_of(warm)
    first, second = (separate(warm, song) for _ in range(2))
    assert [stem.sha256 for stem in first.stems] == [stem.sha256 for stem in second.stems]
    assert pid_of(warm) == pid


def test_the_child_tells_when_the_songs_own_time_begins(
    warm: WorkerSupervisor, short: Mixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear = ChildProcess.report
    told: list[type] = []

    def listen(child: ChildProcess) -> Report | Ended | None:
        report = hear(child)
        told.append(type(report))
        return report

    warm.start(CancelToken())
    monkeypatch.setattr(ChildProcess, "report", listen)
    separate(warm, short)
    assert list(dict.fromkeys(kind for kind in told if kind is not type(None))) == [
        Started,
        ModelLoaded,
        Progress,
        Done,
    ]


def test_a_refused_job_leaves_the_child_fit(warm: WorkerSupervisor, short: Mixture) -> None:
    pid = pid_of(warm)
    with pytest.raises(PermanentError) as caught:
        separate(warm, short, stems=("drums",))
    assert caught.value.code is ErrorCode.STEM_UNKNOWN
    with pytest.raises(PermanentError) as caught:
        separate(warm, short, model="no-such-model.onnx")
    assert caught.value.code is ErrorCode.MODEL_UNKNOWN
    assert len(separate(warm, short).stems) == 2
    assert pid_of(warm) == pid


def test_a_cancel_is_honoured_and_the_child_stays_warm(warm: WorkerSupervisor, song: Mixture) -> None:
    pid = pid_of(warm)
    cancel = CancelToken()
    with pytest.raises(CancelledError) as caught:
        separate(warm, song, cancel=cancel, on_progress=lambda _: cancel.cancel(ErrorCode.DELIVERY_LOST))
    assert caught.value.code is ErrorCode.DELIVERY_LOST
    assert [path.name for path in song.path.parent.iterdir()] == ["mixture.wav"]
    assert len(separate(warm, song).stems) == 2
    assert pid_of(warm) == pid


def test_a_full_disk_costs_neither_the_job_nor_the_child(warm: WorkerSupervisor, song: Mixture) -> None:
    pid = pid_of(warm)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    with pytest.raises(InfrastructureError) as caught:
        separate(warm, song)
    assert caught.value.code is ErrorCode.DISK_FULL
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert len(separate(warm, song).stems) == 2
    assert pid_of(warm) == pid


def test_a_ctrl_c_is_for_the_parent(warm: WorkerSupervisor, short: Mixture) -> None:
    """The terminal sends it to both; the parent may want to finish the job."""
    pid = pid_of(warm)
    os.kill(pid, signal.SIGINT)
    assert len(separate(warm, short).stems) == 2
    assert pid_of(warm) == pid


def test_a_child_that_is_killed_at_work_is_replaced(warm: WorkerSupervisor, song: Mixture) -> None:
    """As by a kernel that is short of memory."""
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


PARENT = """
import sys
import threading
from pathlib import Path
from pipeline.cancellation import CancelToken
from processor.ipc import ChildSettings
from processor.workers.supervisor import SeparationProcess
process = SeparationProcess(ChildSettings(Path(sys.argv[1]), sys.argv[2], False, Path(sys.argv[3])))
print(process._running().pid, flush=True)
process.start(CancelToken())
"""


def test_a_child_ends_with_its_parent(model_dir: Path, tmp_path: Path) -> None:
    """Even one that is busy loading, when the parent is given no time for anything."""
    arguments = [str(model_dir), DEMO_MODEL_NAME, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, *arguments], cwd=REPOSITORY, stdout=pipe, stderr=pipe, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        child = psutil.Process(int(parent.stdout.readline()))
        # Its settings have come when it turns to the library.
        while not any("torch" in region.path for region in child.memory_maps()):
            threading.Event().wait(0.05)
        parent.kill()
        # The child holds this too, so it ends when the last of the two is gone.
        logged = parent.stderr.read()
    assert "model_warmed_up" not in logged  # it did not go on until it had something to tell


_SET_UP = """
import gc, sys, weakref
from multiprocessing import Pipe
from pathlib import Path
from processor.workers.child import Parent, _set_up
from processor.system.memory import MainMemory
from processor.ipc import ChildSettings
models, scratch, name = sys.argv[1:]
parent = Parent(Pipe()[0])
engine = _set_up(ChildSettings(Path(models), name, False, Path(scratch)), parent)
print(gc.get_freeze_count(), len(gc.get_objects()))
engine.in_a_circle, of_it = engine, weakref.ref(engine)
del engine
gc.collect()
print(of_it() is None)
MainMemory().give_back()
print(of_it() is None)
print(gc.get_freeze_count(), len(gc.get_objects()))
"""


def test_collecting_garbage_between_songs_does_not_look_through_the_libraries(tmp_path: Path) -> None:
    write_demo_model(tmp_path / "models")
    command = [sys.executable, "-c", _SET_UP, str(tmp_path / "models"), str(tmp_path), DEMO_MODEL_NAME]
    run = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, check=True, text=True)
    at_first, kept, gone, in_the_end = [line for line in run.stdout.splitlines() if "[" not in line]
    for counts in (at_first, in_the_end):
        spared, looked_through = map(int, counts.split())
        assert looked_through < spared / 10
    # What a model takes is given back where its room is needed.
    assert (kept, gone) == ("False", "True")
