"""The parent's side of the child process: start it, feed it, watch it, replace it.

spawned ──Ready──▶ warm ──Separate──▶ started ──Loaded──▶ separating ──Done, Failed──▶ warm …
   │                │                    ▲                    │
   │                │                    ├──Started───────────┤ the next model of an ensemble
   │ SetupFailed,   │ ends: nobody's     │ ends, Fatal, too slow: the job's doing (PoisonError)
   │ ends: ours     │ doing; replaced    │ cancelled and deaf: nobody's doing; replaced
   ▼                ▼                    ▼                    ▼
   gone, until somebody needs one        a new one is spawned at once and loads meanwhile
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
from processor.workers.process import ChildProcess, Ended

log = get_logger(__name__)

#: What runs in the child; the number of the pipe's descriptor is added.
COMMAND = (sys.executable, "-m", "processor.workers.child")
#: How long a warm child may take to begin with a job before it counts as hung, s.
START_GRACE = 30.0
#: How long a model may take to load, s: its files may have to be downloaded first.
LOAD_TIMEOUT = 7200.0
#: How long a child may take to honour a cancel before it is killed, s: a segment on a slow device.
CANCEL_GRACE = 5.0
#: Children that may die under a job before they have begun with it, or at the start before they are ready.
MOST_STILLBORN = 3
#: Between two tries to start with a disk that is full.
FULL_DISK = Backoff(base=1.0, cap=30.0)

OnProgress = Callable[[float], None]

_ERRORS: Mapping[ErrorKind, Callable[..., PipelineError]] = {
    ErrorKind.PERMANENT: PermanentError,
    ErrorKind.TRANSIENT: TransientError,
    ErrorKind.INFRASTRUCTURE: InfrastructureError,
    ErrorKind.POISON: PoisonError,
    ErrorKind.CANCELLED: CancelledError,
}


class WorkerUnavailableError(InfrastructureError):
    """There is no child to be had here: a job may go to another one as if it had never come to this one."""


class _NeverBegunError(Exception):
    """The child ended, or hung, before it had begun with the job."""


class WorkerSupervisor:
    """A child process with a warm model, replaced when it dies. One job at a time; the rest from any thread.

    ``command`` is what is run, less the last argument: the number of the descriptor it is spoken to over.
    ``load_timeout``: s after which a child that loads a model for a job counts as hung. ``device``: what it runs on.
    ``numbers``: of its jobs, where several children share them.
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
        self.failure: str | None = None
        """Why there was no child to be had at the last try; None if there was one."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when a child has become ready, and when one is gone."""
        self._settings = settings
        self._command = command
        self._load_timeout = load_timeout
        self._child: ChildProcess | None = None
        self._closed = False
        self._numbers = numbers or itertools.count(1)
        self._lock = threading.Lock()
        self._busy = metrics.engine_busy_seconds.labels(device.label)

    def start(self, cancel: CancelToken, *, timeout: float | None = None) -> Ready:
        """Have a child whose model is loaded; starts one if there is none, and another one if it dies meanwhile.

        ``timeout``: s after which one that loads counts as hung; None: its model may take for ever to be fetched. A
        full disk is waited out. Raises InfrastructureError if the child cannot work at all (no model, no GPU where one
        is required), and CancelledError.
        """
        stillborn = full = 0
        while True:
            try:
                return self._warm(cancel, timeout)[1]
            except InfrastructureError as error:
                if error.code is ErrorCode.DISK_FULL:
                    full += 1
                    self._wait_for_room(error, full, cancel)
                    continue
                stillborn += 1
                if error.code is not ErrorCode.WORKER_DIED or stillborn == MOST_STILLBORN:
                    raise
                log.warning("separation_process_stillborn", error=error.message)

    def _wait_for_room(self, error: InfrastructureError, failures: int, cancel: CancelToken) -> None:
        delay = FULL_DISK.delay(failures, random.Random())
        log.warning("separation_process_waits", error=error.message, retry_in_seconds=round(delay, 1))
        cancel.wait(delay)
        cancel.raise_if_set()

    @property
    def pid(self) -> int | None:
        """Of the child, if there is one."""
        child = self._child
        return None if child is None else child.pid

    @property
    def ready(self) -> Ready | None:
        """What the child has said of itself, if there is one and its model is loaded."""
        child = self._child
        return None if child is None else child.ready

    @property
    def models(self) -> frozenset[str]:
        """The models that the child has loaded."""
        child = self._child
        return frozenset() if child is None else child.models

    @property
    def default_model(self) -> str:
        """The model of jobs that ask for none."""
        return self._settings.model_name

    @property
    def load_timeout(self) -> float:
        """After so long a child that loads a model counts as hung, s."""
        return self._load_timeout

    def check(self) -> None:
        """Raise InfrastructureError unless a model is loaded."""
        child = self._child
        if child is None:
            raise InfrastructureError("no separation process is running", code=ErrorCode.MODEL_UNAVAILABLE)
        if child.ready is None:
            raise InfrastructureError("the model is being loaded", code=ErrorCode.MODEL_UNAVAILABLE)

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
        """Separate a song into ``folder``. ``timeout``: s after which a child that has its model counts as hung; each
        model of an ensemble has as long.

        Raises PermanentError or TransientError as the child says, PoisonError if the job ended or hung the child,
        ChildUnavailableError if there is no child to be had, other InfrastructureErrors as the child says,
        CancelledError.
        """
        for _ in range(MOST_STILLBORN):
            child, _ready = self._warm(cancel, self._load_timeout)
            job = next(self._numbers)
            child.send(
                Separate(
                    job=job,
                    mixture=mixture.path,
                    peak=mixture.peak,
                    frames=mixture.frames,
                    folder=folder,
                    model=model or self._settings.model_name,
                    stems=stems,
                    task_uuid=get_contextvars().get("task_uuid"),
                )
            )
            with suppress(_NeverBegunError):
                return _Job(child, job, cancel, self._load_timeout, timeout, self._busy).wait(on_progress)
        raise WorkerUnavailableError("the separation process ends before it begins", code=ErrorCode.WORKER_DIED)

    def close(self) -> None:
        """End the child; there will be no other."""
        with self._lock:
            self._closed = True
            child = self._child
        if child is not None:
            child.kill()  # between two jobs it holds nothing that is worth waiting for

    def _warm(self, cancel: CancelToken, timeout: float | None) -> tuple[ChildProcess, Ready]:
        """A child that is ready for work."""
        try:
            child = self._running()
            ready = self._set_up(child, cancel, timeout)
        except WorkerUnavailableError as error:
            self.failure = error.message
            raise
        self.failure = None
        return child, ready

    @staticmethod
    def _set_up(child: ChildProcess, cancel: CancelToken, timeout: float | None) -> Ready:
        deadline = None if timeout is None else time.monotonic() + timeout
        while child.ready is None:
            cancel.raise_if_set()
            if deadline is not None and time.monotonic() > deadline:
                child.kill()
                raise WorkerUnavailableError("the model is not loaded in time", code=ErrorCode.WORKER_TIMEOUT)
            match child.set_up():
                case SetupFailed() as failed:
                    child.kill()
                    raise WorkerUnavailableError(failed.message, code=failed.code)
                case Ended() as ended:
                    raise WorkerUnavailableError(
                        f"the separation process {ended} while it loaded the model", code=ErrorCode.WORKER_DIED
                    )
                case _:
                    pass
        return child.ready

    def _running(self) -> ChildProcess:
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
            self._settings, self._command, self._replace, on_ready=lambda: self.on_change(), device=self.device
        )

    def _replace(self, child: ChildProcess) -> None:
        """Called when ``child`` is gone: the next one loads while the next song is fetched.

        Unless it never got ready. Then its like would not either, and whoever needs one decides when to try again.
        """
        with self._lock:
            if self._child is not child:
                return
            self._child = None
            if child.ready is not None and not self._closed:
                with suppress(OSError):
                    self._child = self._spawn()
        self.on_change()


class _Phase(Enum):
    """How far a child is with its job."""

    SENT = "sent"
    STARTED = "started"
    SEPARATING = "separating"


@dataclass(slots=True)
class _Job:
    """One job in the hands of one child."""

    child: ChildProcess
    number: int
    cancel: CancelToken
    load_timeout: float
    timeout: float
    busy: Counter
    """The engine's busy time on this device, s."""
    phase: _Phase = _Phase.SENT
    since: float = field(default_factory=time.monotonic)
    """When the phase began."""
    counted: float = field(default_factory=time.monotonic)
    """Up to when the engine's busy time is counted."""

    def wait(self, on_progress: OnProgress) -> Done:
        """Wait for the end. Raises _NeverBegunError, and what ``WorkerSupervisor.separate`` raises."""
        while True:
            if self.cancel.is_set():
                self._stop()
                self.cancel.raise_if_set()
            self._require_time()
            report = self._report()
            self._count()
            match report:
                case Started():
                    self._enter(_Phase.STARTED)
                case ModelLoaded():
                    self._enter(_Phase.SEPARATING)
                case Progress() as progress:
                    on_progress(progress.fraction)
                case Done() as done:
                    return done
                case None:
                    pass
                case end:
                    raise self._failure(end)

    def _enter(self, phase: _Phase) -> None:
        self.phase, self.since = phase, time.monotonic()

    def _count(self) -> None:
        """Count the busy time since the last look: at each tick, since a song may take an hour."""
        now = time.monotonic()
        if self.phase is _Phase.SEPARATING:
            self.busy.inc(now - self.counted)
        self.counted = now

    def _require_time(self) -> None:
        limits = {_Phase.SENT: START_GRACE, _Phase.STARTED: self.load_timeout, _Phase.SEPARATING: self.timeout}
        if time.monotonic() - self.since > limits[self.phase]:
            self.child.kill()
            raise self._too_slow()

    def _too_slow(self) -> Exception:
        match self.phase:
            case _Phase.SENT:
                return _NeverBegunError()
            case _Phase.STARTED:
                what = f"the model took longer than {self.load_timeout:g} s to load"
            case _Phase.SEPARATING:
                what = f"the separation took longer than {self.timeout:g} s"
        return PoisonError(what, code=ErrorCode.WORKER_TIMEOUT)

    def _failure(self, end: Failed | Fatal | Ended) -> Exception:
        match end:
            case Failed():
                return _ERRORS[end.kind](end.message, code=end.code)
            case Fatal():
                self.child.kill()
                return PoisonError(end.message, code=ErrorCode.WORKER_DIED)
            case Ended() if self.phase is not _Phase.SENT:
                return PoisonError(f"the separation process {end}", code=ErrorCode.WORKER_DIED)
            case _:
                return _NeverBegunError()

    def _report(self) -> JobReport | Ended | None:
        """The next report about this job; a late one about an earlier job is dropped."""
        report = self.child.report()
        return report if report is None or isinstance(report, Ended) or report.job == self.number else None

    def _stop(self) -> None:
        """Ask the child to stop, and end it if it does not. It stays warm if it does."""
        self.child.send(Cancel(self.number))
        deadline = time.monotonic() + CANCEL_GRACE
        while time.monotonic() < deadline:
            if isinstance(self._report(), Done | Failed | Ended):
                return
        self.child.kill()
