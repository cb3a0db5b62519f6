"""The supervisor, with children that fail in every way: small scripted programs in real processes."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from pipeline.backoff import Backoff
from pipeline.cancellation import CancelToken
from pipeline.errors import (
    CancelledError,
    ErrorCode,
    ErrorKind,
    InfrastructureError,
    PipelineError,
    PoisonError,
)
from pipeline.model_choice import Algorithm, Ensemble
from pipeline.service.metrics import REGISTRY
from processor.audio.decode import Mixture
from processor.ipc import Cancel, Done
from processor.workers import supervisor as supervisor_module
from processor.workers.process import ChildProcess
from processor.workers.supervisor import MAX_START_FAILURES, WorkerSupervisor
from tests.processor.child_settings import child_settings
from tests.processor.worker_threads import eventually, open_worker_threads
from tests.processor.workers.children import scripted_command

DEADLINE = 20.0
MODEL = "model.onnx"


@dataclass
class Stage:
    """A supervisor whose successive children have the given behaviours."""

    folder: Path
    process: WorkerSupervisor
    progress: list[float] = field(default_factory=list)
    on_progress: Callable[[float], None] = lambda fraction: None

    def separate(
        self, *, timeout: float = DEADLINE, cancel: CancelToken | None = None, model: str | Ensemble | None = None
    ) -> Done:
        def on_progress(fraction: float) -> None:
            self.progress.append(fraction)
            self.on_progress(fraction)

        return self.process.separate(
            Mixture(self.folder / "mixture.wav", 1.0, 44_100, ()),
            self.folder,
            model=model,
            stems=None,
            timeout=timeout,
            cancel=cancel or CancelToken(),
            on_progress=on_progress,
        )

    def failure(self, *, timeout: float = DEADLINE, cancel: CancelToken | None = None) -> PipelineError:
        with pytest.raises(PipelineError) as caught:
            self.separate(timeout=timeout, cancel=cancel)
        return caught.value

    @property
    def pids(self) -> list[int]:
        """The process ids of all children so far, in order."""
        return [int(path.read_text()) for path in sorted((self.folder / "children").iterdir()) if path.read_text()]

    def wait_for_child(self, number: int) -> int:
        """Wait for the ``number``-th child (from 1); return its process id."""
        eventually(lambda: len(self.pids) >= number)
        return self.pids[number - 1]


def is_ready(process: WorkerSupervisor) -> bool:
    try:
        process.check()
    except InfrastructureError:
        return False
    return True


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    opened: list[Stage] = []

    def open_stage(*behaviours: str, load_timeout: float = DEADLINE) -> Stage:
        command = scripted_command(tmp_path, *behaviours)
        process = WorkerSupervisor(child_settings(tmp_path, MODEL, tmp_path), command, load_timeout=load_timeout)
        opened.append(Stage(tmp_path, process))
        return opened[-1]

    yield open_stage
    for each in opened:
        each.process.close()
        # No child still runs, and none is a zombie.
        assert not [pid for pid in each.pids if psutil.pid_exists(pid)]


Opener = Callable[..., Stage]


def test_one_child_runs_jobs_in_sequence(stage: Opener) -> None:
    at = stage("work")
    assert [at.separate().model for _ in range(3)] == [MODEL] * 3
    assert at.progress == [0.0, 0.5, 1.0] * 3
    assert len(at.pids) == 1


def test_child_is_ready_once_the_model_is_loaded(stage: Opener) -> None:
    at = stage("get_ready_when_released")
    with pytest.raises(InfrastructureError, match="no separation process is running"):
        at.process.check()
    starting = threading.Thread(target=at.process.start, args=[CancelToken()])
    starting.start()
    at.wait_for_child(1)
    with pytest.raises(InfrastructureError, match="the model is being loaded"):
        at.process.check()
    (at.folder / "go").touch()
    starting.join(DEADLINE)
    at.process.check()


# --- the engine's busy time ---


def busy_seconds() -> float:
    return REGISTRY.get_sample_value("uvr_engine_busy_seconds_total", {"device": "auto"}) or 0.0


def test_busy_time_is_counted_while_the_child_separates(stage: Opener) -> None:
    at = stage("finish_when_released_in_job")
    at.process.start(CancelToken())
    before, started = busy_seconds(), time.monotonic()
    separating = threading.Thread(target=at.separate)
    separating.start()
    eventually(lambda: busy_seconds() - before > 0.3)
    assert separating.is_alive()
    (at.folder / "go-1").touch()
    separating.join(DEADLINE)
    assert busy_seconds() - before <= time.monotonic() - started


def test_loading_is_not_busy_time(stage: Opener) -> None:
    at = stage("hang_while_loading", load_timeout=0.5)
    at.process.start(CancelToken())
    before = busy_seconds()
    assert isinstance(at.failure(), PoisonError)
    assert busy_seconds() == before


# --- setup: the job is not to blame ---


def test_exit_during_setup_is_an_infrastructure_error(stage: Opener) -> None:
    at = stage("exit_in_setup")
    for tries in (1, 2):
        error = at.failure()
        assert isinstance(error, InfrastructureError)
        assert (error.code, error.message) == (
            ErrorCode.WORKER_DIED,
            "the separation process ended with status 3 while it loaded the model",
        )
        # One child per attempt: failing children are not restarted in a tight loop.
        with pytest.raises(InfrastructureError, match="no separation process is running"):
            at.process.check()
        assert len(at.pids) == tries


def test_start_retries_after_exit_during_setup(stage: Opener) -> None:
    at = stage("exit_in_setup", "exit_in_setup", "work")
    assert at.process.start(CancelToken()).model == MODEL
    assert len(at.pids) == 3


def test_start_gives_up_after_the_maximum_of_failures(stage: Opener) -> None:
    at = stage("exit_in_setup")
    with pytest.raises(InfrastructureError, match="while it loaded the model"):
        at.process.start(CancelToken())
    assert len(at.pids) == 3


def test_reported_setup_failure_is_raised(stage: Opener) -> None:
    at = stage("refuse_setup", "work")
    with pytest.raises(InfrastructureError, match="there is no model today") as caught:
        at.process.start(CancelToken())
    assert caught.value.code is ErrorCode.MODEL_UNAVAILABLE
    assert at.process.start(CancelToken()).model == MODEL


def test_start_is_retried_while_the_disk_is_full(stage: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "DISK_FULL_BACKOFF", Backoff(base=0.01, cap=0.01))
    full = ["report_full_disk"] * (MAX_START_FAILURES + 1)
    at = stage(*full, "work")
    assert at.process.start(CancelToken()).model == MODEL
    assert len(at.pids) == len(full) + 1


def test_cancel_ends_the_wait_for_disk_space(stage: Opener) -> None:
    at = stage("report_full_disk")
    cancel = CancelToken()
    threading.Timer(0.1, cancel.cancel, [ErrorCode.SHUTTING_DOWN]).start()
    with pytest.raises(CancelledError):
        at.process.start(cancel)


def test_child_that_hangs_during_setup_is_killed(stage: Opener) -> None:
    at = stage("hang_in_setup", "work", load_timeout=0.3)
    at.process._ensure_child()
    at.wait_for_child(1)
    error = at.failure()
    assert isinstance(error, InfrastructureError)
    assert (error.code, error.message) == (ErrorCode.WORKER_TIMEOUT, "the model is not loaded in time")
    at.process.start(CancelToken())
    at.separate()


def test_cancel_does_not_interrupt_loading(stage: Opener) -> None:
    at = stage("hang_in_setup")
    cancel = CancelToken()
    cancel.cancel(ErrorCode.DELIVERY_LOST)
    for _ in range(2):
        error = at.failure(cancel=cancel)
        assert isinstance(error, CancelledError)
        assert error.code is ErrorCode.DELIVERY_LOST
    at.wait_for_child(1)
    assert len(at.pids) == 1


def test_missing_program_is_an_infrastructure_error(tmp_path: Path) -> None:
    process = WorkerSupervisor(child_settings(tmp_path, MODEL, tmp_path), [str(tmp_path / "no-program")])
    before = open_files()
    with pytest.raises(InfrastructureError, match="can be started: No such file or directory"):
        process.start(CancelToken())
    assert open_files() == before
    process.close()


# --- during a job: the job is to blame ---


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("die_in_job", "the separation process was ended by signal 9"),
        ("report_fatal_in_job", "the device has fallen off"),
        ("send_garbage_in_job", "the separation process was ended by signal 9"),
        ("name_foreign_file_in_job", "the separation process named a file that is not its own"),
    ],
)
def test_child_killed_by_a_job_is_replaced_immediately(stage: Opener, behaviour: str, message: str) -> None:
    at = stage(behaviour, "work")
    error = at.failure()
    assert isinstance(error, PoisonError)
    assert (error.code, error.message) == (ErrorCode.WORKER_DIED, message)
    assert not psutil.pid_exists(at.pids[0])
    eventually(lambda: is_ready(at.process))  # without a request for it
    at.separate()
    assert len(at.pids) == 2


def test_hung_child_is_killed_at_the_timeout(stage: Opener) -> None:
    at = stage("stop_in_job", "work")
    at.process.start(CancelToken())
    error = at.failure(timeout=1.0)
    assert isinstance(error, PoisonError)
    assert (error.code, error.message) == (ErrorCode.WORKER_TIMEOUT, "the separation took longer than 1 s")
    assert not psutil.pid_exists(at.pids[0])
    at.separate()


def test_child_that_hangs_while_loading_a_jobs_model_is_killed(stage: Opener) -> None:
    at = stage("hang_while_loading", "work", load_timeout=1.0)
    at.process.start(CancelToken())
    error = at.failure(timeout=0.0)
    assert isinstance(error, PoisonError)
    assert (error.code, error.message) == (ErrorCode.WORKER_TIMEOUT, "the model took longer than 1 s to load")
    assert not psutil.pid_exists(at.pids[0])


def test_loading_time_does_not_count_towards_the_timeout(stage: Opener) -> None:
    at = stage("load_slowly")
    at.process.start(CancelToken())
    assert at.separate(timeout=0.9).model == MODEL
    assert len(at.pids) == 1


def test_each_model_of_an_ensemble_has_its_own_timeout(stage: Opener) -> None:
    at = stage("load_two_models")
    at.process.start(CancelToken())
    ensemble = Ensemble(ensemble=("a.onnx", "b.ckpt"), algorithm=Algorithm.MAX_FFT)
    assert at.separate(timeout=1.0, model=ensemble).model == "max_fft: a.onnx, b.ckpt"


@pytest.mark.parametrize("kind", ErrorKind)
def test_reported_failure_is_raised_with_its_kind(stage: Opener, kind: ErrorKind) -> None:
    at = stage("fail_in_job")
    with pytest.raises(PipelineError) as caught:
        at.separate(model=kind.value)
    error = caught.value
    assert (error.kind, error.code, error.message) == (kind, ErrorCode.SEPARATION_FAILED, f"{kind} it is")
    with pytest.raises(PipelineError):
        at.separate(model="permanent")
    assert len(at.pids) == 1


def test_stale_reports_are_dropped(stage: Opener) -> None:
    at = stage("send_stale_report_in_job")
    for _ in range(3):
        at.separate()
    assert len(at.pids) == 1


# --- between jobs, and before a job has started: no job is to blame ---


def test_child_killed_while_idle_is_replaced_immediately(stage: Opener) -> None:
    at = stage("work")
    at.separate()
    os.kill(at.pids[0], signal.SIGKILL)
    second = at.wait_for_child(2)
    eventually(lambda: is_ready(at.process))
    at.separate()
    assert at.pids[1:] == [second]


def test_job_directly_after_a_death_is_done(stage: Opener) -> None:
    """The job is done whichever event is noticed first."""
    at = stage("work")
    for _ in range(5):
        at.separate()
        os.kill(at.pids[-1], signal.SIGKILL)
    at.separate()


@pytest.mark.parametrize("behaviour", ["die_before_the_job", "stop_before_the_job"])
def test_job_is_not_blamed_for_a_child_that_never_started_it(
    stage: Opener, behaviour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "START_GRACE", 1.0)
    at = stage(behaviour, "work")
    at.separate()
    assert len(at.pids) == 2


def test_children_that_never_start_the_job_are_an_infrastructure_error(stage: Opener) -> None:
    at = stage("die_before_the_job")
    error = at.failure()
    assert isinstance(error, InfrastructureError)
    assert error.code is ErrorCode.WORKER_DIED
    assert MAX_START_FAILURES <= len(at.pids) <= MAX_START_FAILURES + 1


# --- cancel ---


def cancelled_at_progress(at: Stage) -> PipelineError:
    cancel = CancelToken()
    at.on_progress = lambda _fraction: cancel.cancel(ErrorCode.SHUTTING_DOWN)
    error = at.failure(cancel=cancel)
    at.on_progress = lambda _fraction: None
    return error


@pytest.mark.parametrize("behaviour", ["honour_cancel_in_job", "finish_despite_cancel_in_job"])
def test_child_that_honours_a_cancel_stays_warm(stage: Opener, behaviour: str) -> None:
    at = stage(behaviour)
    for _ in range(2):
        error = cancelled_at_progress(at)
        assert isinstance(error, CancelledError)
        assert error.code is ErrorCode.SHUTTING_DOWN
    assert len(at.pids) == 1


@pytest.mark.parametrize("behaviour", ["ignore_cancel_in_job", "stop_in_job", "die_in_job", "report_fatal_in_job"])
def test_child_ignoring_a_cancel_is_replaced(stage: Opener, behaviour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "CANCEL_GRACE", 0.3)
    at = stage(behaviour, "work")
    assert isinstance(cancelled_at_progress(at), CancelledError)
    assert not psutil.pid_exists(at.pids[0])
    at.separate()
    assert len(at.pids) == 2


# --- close ---


def test_no_child_is_started_after_close(stage: Opener) -> None:
    at = stage("work")
    at.separate()
    for _ in range(2):
        at.process.close()
        with pytest.raises(InfrastructureError, match="no separation process is running"):
            at.process.check()
    assert isinstance(at.failure(), CancelledError)
    assert len(at.pids) == 1


def test_close_does_not_wait_for_a_hung_child(stage: Opener) -> None:
    at = stage("hang_in_setup")
    at.process._ensure_child()
    pid = at.wait_for_child(1)
    os.kill(pid, signal.SIGSTOP)
    at.process.close()
    assert not psutil.pid_exists(pid)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def child_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("child-")]


def test_dead_children_leak_no_descriptors_or_threads(stage: Opener) -> None:
    at = stage("work", "die_in_job", "exit_in_setup", "send_garbage_in_job", "stop_in_job", "work")
    at.separate()
    gc.collect()  # the garbage of earlier tests
    files, threads = open_files(), len(child_threads())
    os.kill(at.pids[0], signal.SIGKILL)
    at.wait_for_child(2)
    errors = [at.failure() for _ in range(3)]
    at.process.start(CancelToken())
    errors.append(at.failure(timeout=1.0))
    at.separate()
    assert [error.code for error in errors] == [ErrorCode.WORKER_DIED] * 3 + [ErrorCode.WORKER_TIMEOUT]
    assert len(at.pids) == 6
    assert (open_files(), len(child_threads())) == (files, threads)


def count_stray_bytes(finished: threading.Event) -> int:
    """Count the bytes that arrive in pipes without a writer."""
    stray_bytes = 0
    while not finished.is_set():
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        threading.Event().wait(0)
        with suppress(BlockingIOError):
            stray_bytes += len(os.read(reading, 1000))
        os.close(writing)
        os.close(reading)
    return stray_bytes


def test_commands_to_an_exiting_child_reach_no_other_descriptor(tmp_path: Path) -> None:
    """The system reuses the number of a closed descriptor for the next file that is opened."""
    finished = threading.Event()
    interval = sys.getswitchinterval()
    with open_worker_threads() as threads:
        watch = threads.start(count_stray_bytes, finished)
        sys.setswitchinterval(1e-5)
        try:
            for _ in range(100):
                child = ChildProcess(child_settings(tmp_path, MODEL, tmp_path), ["true"], lambda child: None)
                while child._thread.is_alive():
                    child.send(Cancel(1))
        finally:
            sys.setswitchinterval(interval)
            finished.set()
        assert watch.result(DEADLINE) == 0
