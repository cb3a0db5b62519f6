"""The parent's side of one child process: start it, load the model, separate, cancel, replace.

spawned ──Ready──▶ warm ──Separate──▶ started ──ModelLoaded──▶ separating ──Done, Failed──▶ warm …
   │                │                    ▲                         │
   │                │                    ├──Started────────────────┤ the next model of an ensemble
   │                │                    │
   │ SetupFailed,   │ exits: no job      │ exits, Fatal, timeout: the job is to blame (PoisonError)
   │ exits: infra-  │ is to blame;       │ ignores a cancel: killed, no job is to blame
   │ structure      │ replaced           │
   ▼                ▼                    ▼
   none, until a    a replacement is spawned immediately and loads its model
   job needs one    while the next song is fetched
"""

from __future__ import annotations

import itertools
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from prometheus_client import Counter
from structlog.contextvars import get_contextvars

from pipeline.backoff import Backoff
from pipeline.cancellation import CancelToken
from pipeline.errors import (
    CancelledError,
    ErrorCode,
    ErrorKind,
    InfrastructureError,
    PermanentError,
    PipelineError,
    PoisonError,
    TransientError,
)
from pipeline.model_choice import Ensemble
from pipeline.service import metrics
from pipeline.service.logs import get_logger
from processor.audio.decode import Mixture
from processor.ipc import (
    Cancel,
    ChildSettings,
    Done,
    Failed,
    Fatal,
    JobReport,
    ModelLoaded,
    Progress,
    Ready,
    Separate,
    SetupFailed,
    Started,
)
from processor.workers.devices import ANY, Device
from processor.workers.process import ChildProcess, Exited

log = get_logger(__name__)

#: The child's command; the number of the pipe's descriptor is appended.
COMMAND = (sys.executable, "-m", "processor.workers.child")
#: The time within which a warm child must start a job, s; after that it counts as hung.
START_GRACE = 30.0
#: The time limit for loading a model, s: its files may have to be downloaded first.
LOAD_TIMEOUT = 7200.0
#: The time within which a child must honour a cancel, s; after that it is killed. A slow device needs it for a segment.
CANCEL_GRACE = 5.0
#: The number of children that may exit before they are ready, or before they have started the job.
MAX_START_FAILURES = 3
#: The delays between attempts to start while the disk is full.
DISK_FULL_BACKOFF = Backoff(base=1.0, cap=30.0)

OnProgress = Callable[[float], None]

_ERRORS: Mapping[ErrorKind, Callable[..., PipelineError]] = {
    ErrorKind.PERMANENT: PermanentError,
    ErrorKind.TRANSIENT: TransientError,
    ErrorKind.INFRASTRUCTURE: InfrastructureError,
    ErrorKind.POISON: PoisonError,
    ErrorKind.CANCELLED: CancelledError,
}


class WorkerUnavailableError(InfrastructureError):
    """There is no usable child. The job has not started, and may be assigned to another one."""


class _NotStartedError(Exception):
    """The child exited or hung before it started the job."""


class WorkerSupervisor:
    """A child process with a loaded model, replaced when it dies.

    One thread at a time may call ``separate``; the other methods are thread-safe. ``command``: the child's command, to
    which the number of the pipe's descriptor is appended. ``load_timeout``: the limit for loading a job's model, s.
    ``device``: the child's device. ``numbers``: the job numbers, shared by several supervisors.
    """

    def __init__(
        self,
        settings: ChildSettings,
        command: Sequence[str] = COMMAND,
        *,
        load_timeout: float = LOAD_TIMEOUT,
        device: Device = ANY,
        numbers: Iterator[int] | None = None,
    ) -> None:
        self.device = device
        self.last_error: str | None = None
        """The reason for which the last attempt to get a child failed; None if it succeeded."""
        self.on_state_change: Callable[[], None] = lambda: None
        """Called when a child has become ready, and when it has exited."""
        self._settings = settings
        self._command = command
        self._load_timeout = load_timeout
        self._child: ChildProcess | None = None
        self._closed = False
        self._numbers = numbers or itertools.count(1)
        self._lock = threading.Lock()
        self._busy = metrics.engine_busy_seconds.labels(device.label)

    @property
    def pid(self) -> int | None:
        """The process id of the child; None if there is none."""
        child = self._child
        return None if child is None else child.pid

    @property
    def ready(self) -> Ready | None:
        """The child's report that its model is loaded; None if there is no child or it is not loaded yet."""
        child = self._child
        return None if child is None else child.ready

    @property
    def models(self) -> frozenset[str]:
        """The models that the child has loaded."""
        child = self._child
        return frozenset() if child is None else child.models

    @property
    def default_model(self) -> str:
        """The model of jobs that do not name one."""
        return self._settings.model.model_name

    @property
    def load_timeout(self) -> float:
        """The limit for loading a model, s."""
        return self._load_timeout

    def check(self) -> None:
        """Raise InfrastructureError unless a model is loaded."""
        child = self._child
        if child is None:
            raise InfrastructureError("no separation process is running", code=ErrorCode.MODEL_UNAVAILABLE)
        if child.ready is None:
            raise InfrastructureError("the model is being loaded", code=ErrorCode.MODEL_UNAVAILABLE)

    def start(self, cancel: CancelToken, *, timeout: float | None = None) -> Ready:
        """Return once a child has its model loaded; start a child if there is none or it dies meanwhile.

        ``timeout``: the limit for loading, s; None: no limit, because the model may have to be downloaded. While the
        disk is full, the start is retried. Raises InfrastructureError if no child can work (no model, or no GPU where
        one is required), and CancelledError.
        """
        start_failures = disk_failures = 0
        while True:
            try:
                return self._warm_child(cancel, timeout)[1]
            except InfrastructureError as error:
                if error.code is ErrorCode.DISK_FULL:
                    disk_failures += 1
                    delay = DISK_FULL_BACKOFF.delay(disk_failures, random.Random())  # noqa: S311  jitter
                    log.warning("worker_start_delayed", error=error.message, retry_in_seconds=round(delay, 1))
                    cancel.wait(delay)
                    cancel.raise_if_set()
                    continue
                start_failures += 1
                if error.code is not ErrorCode.WORKER_DIED or start_failures == MAX_START_FAILURES:
                    raise
                log.warning("worker_start_failed", error=error.message)

    def _warm_child(self, cancel: CancelToken, timeout: float | None) -> tuple[ChildProcess, Ready]:
        """Return a child that is ready for a job; start one if there is none."""
        try:
            child = self._ensure_child()
            ready = self._wait_until_ready(child, cancel, timeout)
        except WorkerUnavailableError as error:
            self.last_error = error.message
            raise
        self.last_error = None
        return child, ready

    def _ensure_child(self) -> ChildProcess:
        with self._lock:
            if self._closed:
                raise CancelledError("the service is shutting down", code=ErrorCode.SHUTTING_DOWN)
            if self._child is None:
                try:
                    self._child = self._spawn()
                except OSError as error:
                    raise WorkerUnavailableError(
                        f"no separation process can be started: {error.strerror}", code=ErrorCode.WORKER_DIED
                    ) from error
            return self._child

    def _spawn(self) -> ChildProcess:
        return ChildProcess(
            self._settings, self._command, self._replace, on_ready=lambda: self.on_state_change(), device=self.device
        )

    @staticmethod
    def _wait_until_ready(child: ChildProcess, cancel: CancelToken, timeout: float | None) -> Ready:
        deadline = None if timeout is None else time.monotonic() + timeout
        while child.ready is None:
            cancel.raise_if_set()
            if deadline is not None and time.monotonic() > deadline:
                child.kill()
                raise WorkerUnavailableError("the model is not loaded in time", code=ErrorCode.WORKER_TIMEOUT)
            match child.setup_result():
                case SetupFailed() as failed:
                    child.kill()
                    raise WorkerUnavailableError(failed.message, code=failed.code)
                case Exited() as exited:
                    raise WorkerUnavailableError(
                        f"the separation process {exited} while it loaded the model", code=ErrorCode.WORKER_DIED
                    )
                case _:
                    pass
        return child.ready

    def separate(
        self,
        mixture: Mixture,
        folder: Path,
        *,
        model: str | Ensemble | None,
        stems: tuple[str, ...] | None,
        timeout: float,
        cancel: CancelToken,
        on_progress: OnProgress,
    ) -> Done:
        """Separate a song into ``folder``. ``timeout``: the limit for one model after it is loaded, s.

        Raises PermanentError or TransientError as the child reports, PoisonError if the job crashed the child or
        exceeded a limit, WorkerUnavailableError if there is no usable child, other InfrastructureErrors as the child
        reports, CancelledError.
        """
        for _ in range(MAX_START_FAILURES):
            child, _ready = self._warm_child(cancel, self._load_timeout)
            job = next(self._numbers)
            child.send(
                Separate(
                    job=job,
                    mixture=mixture.path,
                    peak=mixture.peak,
                    frames=mixture.frames,
                    folder=folder,
                    model=model or self._settings.model.model_name,
                    stems=stems,
                    task_uuid=get_contextvars().get("task_uuid"),
                )
            )
            with suppress(_NotStartedError):
                running = _RunningJob(child, job, folder, cancel, self._load_timeout, timeout, self._busy)
                return running.wait(on_progress)
        raise WorkerUnavailableError("the separation process ends before it begins", code=ErrorCode.WORKER_DIED)

    def _replace(self, child: ChildProcess) -> None:
        """Replace ``child``, which has exited, so that the next one loads while the next song is fetched.

        A child that never became ready is not replaced: another one would probably fail too. The next caller that needs
        a child decides when to try again.
        """
        with self._lock:
            if self._child is not child:
                return
            self._child = None
            if child.ready is not None and not self._closed:
                with suppress(OSError):
                    self._child = self._spawn()
        self.on_state_change()

    def close(self) -> None:
        """End the child, and start no other one."""
        with self._lock:
            self._closed = True
            child = self._child
        if child is not None:
            child.kill()  # between two jobs it has no state to save


class _JobPhase(Enum):
    """The progress of a child with its job."""

    SENT = "sent"
    STARTED = "started"
    SEPARATING = "separating"


@dataclass(slots=True)
class _RunningJob:
    """A job that was sent to a child."""

    child: ChildProcess
    number: int
    folder: Path
    """The folder of the job's files."""
    cancel: CancelToken
    load_timeout: float
    timeout: float
    busy: Counter
    """The engine's busy time on this device, s."""
    phase: _JobPhase = _JobPhase.SENT
    since: float = field(default_factory=time.monotonic)
    """The start of the phase."""
    counted: float = field(default_factory=time.monotonic)
    """The time up to which the engine's busy time is counted."""

    def wait(self, on_progress: OnProgress) -> Done:
        """Wait for the result. Raises _NotStartedError, and the errors of ``WorkerSupervisor.separate``."""
        while True:
            if self.cancel.is_set():
                self._cancel_child()
                self.cancel.raise_if_set()
            self._enforce_timeout()
            report = self._next_report()
            now = time.monotonic()
            if self.phase is _JobPhase.SEPARATING:
                self.busy.inc(now - self.counted)  # at each tick, because a song may take an hour
            self.counted = now
            match report:
                case Started():
                    self.phase, self.since = _JobPhase.STARTED, now
                case ModelLoaded():
                    self.phase, self.since = _JobPhase.SEPARATING, now
                case Progress() as progress:
                    on_progress(progress.fraction)
                case Done() as done:
                    return self._checked(done)
                case None:
                    pass
                case failure:
                    raise self._error(failure)

    def _checked(self, done: Done) -> Done:
        """Return ``done``. A child that names files outside of the job's folder, which would be read, is replaced."""
        if all(stem.path.parent == self.folder for stem in done.stems):
            return done
        log.error("worker_protocol_error", pid=self.child.pid, error="a stem is not in the folder of its job")
        self.child.kill()
        raise PoisonError("the separation process named a file that is not its own", code=ErrorCode.WORKER_DIED)

    def _enforce_timeout(self) -> None:
        limits = {
            _JobPhase.SENT: START_GRACE,
            _JobPhase.STARTED: self.load_timeout,
            _JobPhase.SEPARATING: self.timeout,
        }
        limit = limits[self.phase]
        if time.monotonic() - self.since <= limit:
            return
        self.child.kill()
        if self.phase is _JobPhase.SENT:
            raise _NotStartedError
        message = f"the separation took longer than {limit:g} s"
        if self.phase is _JobPhase.STARTED:
            message = f"the model took longer than {limit:g} s to load"
        raise PoisonError(message, code=ErrorCode.WORKER_TIMEOUT)

    def _next_report(self) -> JobReport | Exited | None:
        """Return the next report about this job; drop a late one about an earlier job."""
        report = self.child.next_report()
        return report if report is None or isinstance(report, Exited) or report.job == self.number else None

    def _error(self, failure: Failed | Fatal | Exited) -> Exception:
        match failure:
            case Failed():
                return _ERRORS[failure.kind](failure.message, code=failure.code)
            case Fatal():
                self.child.kill()
                return PoisonError(failure.message, code=ErrorCode.WORKER_DIED)
            case Exited() if self.phase is not _JobPhase.SENT:
                return PoisonError(f"the separation process {failure}", code=ErrorCode.WORKER_DIED)
            case _:
                return _NotStartedError()

    def _cancel_child(self) -> None:
        """Ask the child to stop, and kill it if it does not. If it stops, its model stays loaded."""
        self.child.send(Cancel(self.number))
        deadline = time.monotonic() + CANCEL_GRACE
        while time.monotonic() < deadline:
            if isinstance(self._next_report(), Done | Failed | Exited):
                return
        self.child.kill()
