"""The parent's side of the child process: start it, feed it, watch it, replace it."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from pipeline.cancel import CancelToken
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
from pipeline.telemetry import get_logger
from processor.decode import Mixture
from processor.protocol import (
    Cancel,
    ChildSettings,
    Done,
    Failed,
    Fatal,
    Progress,
    Ready,
    Report,
    Separate,
    SetupFailed,
)

log = get_logger(__name__)

#: How often a wait looks up, s: the delay with which a cancel or a death is noticed.
TICK = 0.1
#: How long a child may take to honour a cancel before it is killed, s.
CANCEL_GRACE = 3.0
#: How long a child may take to end by itself, s.
EXIT_GRACE = 2.0

OnProgress = Callable[[float], None]


@dataclass(slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    connection: Connection
    ready: Ready | None = None

    def receive(self, timeout: float) -> Report | None:
        """The next report; None if there is none yet. Raises EOFError when the child is gone."""
        try:
            if self.connection.poll(timeout):
                report: Report = self.connection.recv()
                return report
        except OSError as error:
            raise EOFError from error
        return None

    def end(self) -> int:
        """Make sure that the process is gone; returns its exit status."""
        self.connection.close()
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(EXIT_GRACE)
        self.process.kill()
        return self.process.wait()


class SeparationProcess:
    """A child process with a warm model, replaced when it dies. One job at a time."""

    def __init__(self, settings: ChildSettings) -> None:
        self._settings = settings
        self._child: _Child | None = None
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def start(self, cancel: CancelToken) -> Ready:
        """Have a child whose model is loaded; starts one if there is none.

        Raises InfrastructureError if the child cannot work at all (no model, no GPU where one is required), and
        CancelledError.
        """
        child = self._running()
        while child.ready is None:
            self._require_going_on(child, cancel)
            match self._receive(child):
                case Ready() as ready:
                    child.ready = ready
                    log.info("model_loaded", model=ready.model, device=ready.device, seconds=ready.seconds)
                case SetupFailed() as failed:
                    self._replace(child, respawn=False)
                    raise InfrastructureError(failed.message, code=failed.code)
                case _:
                    pass
        return child.ready

    def check(self) -> None:
        """Raise InfrastructureError unless a model is loaded."""
        child = self._child
        if child is None or child.ready is None or child.process.poll() is not None:
            raise InfrastructureError("the model is being loaded", code=ErrorCode.MODEL_UNAVAILABLE)

    def separate(
        self,
        mixture: Mixture,
        folder: Path,
        *,
        model: str | None,
        stems: tuple[str, ...] | None,
        timeout: float,
        cancel: CancelToken,
        on_progress: OnProgress,
    ) -> Done:
        """Separate a song into ``folder``. ``timeout``: s after which the child counts as hung.

        Raises PermanentError or TransientError as the child says, PoisonError if the job ended or hung the child,
        CancelledError.
        """
        self.start(cancel)
        child = self._running()
        job = next(self._numbers)
        with suppress(OSError):  # gone since: the first wait below finds out
            child.connection.send(
                Separate(
                    job=job,
                    mixture=mixture.path,
                    peak=mixture.peak,
                    frames=mixture.frames,
                    folder=folder,
                    model=model or self._settings.model_name,
                    stems=stems,
                )
            )
        return self._await_done(child, job, timeout, cancel, on_progress)

    def _await_done(
        self, child: _Child, job: int, timeout: float, cancel: CancelToken, on_progress: OnProgress
    ) -> Done:
        deadline = time.monotonic() + timeout
        while True:
            if cancel.is_set():
                self._cancel(child, job)
                cancel.raise_if_set()
            if time.monotonic() > deadline:
                self._replace(child, kill=True)
                raise PoisonError(f"the separation took longer than {timeout:g} s", code=ErrorCode.WORKER_TIMEOUT)
            match self._receive(child, job):
                case Progress() as progress:
                    on_progress(progress.fraction)
                case Done() as done:
                    return done
                case Failed() as failed:
                    raise _error(failed)
                case Fatal() as fatal:
                    self._replace(child)
                    raise PoisonError(fatal.message, code=ErrorCode.WORKER_DIED)
                case _:
                    pass

    def close(self) -> None:
        """End the child."""
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            child.process.kill()  # between two jobs it holds nothing that is worth waiting for
            child.end()

    def _running(self) -> _Child:
        """The child; a new one if there is none or the last one died between two jobs, which is no job's fault."""
        with self._lock:
            if self._child is not None and self._child.process.poll() is not None:
                log.warning("separation_process_ended", status=self._child.end())
                self._child = None
            if self._child is None:
                self._child = _spawn(self._settings)
            return self._child

    def _receive(self, child: _Child, job: int | None = None) -> Report | None:
        """The next report about ``job``; a late one about an earlier job is dropped."""
        try:
            report = child.receive(TICK)
        except EOFError:
            status = self._replace(child)
            raise PoisonError(f"the separation process {_end(status)}", code=ErrorCode.WORKER_DIED) from None
        about = getattr(report, "job", job)
        return report if about == job else None

    def _require_going_on(self, child: _Child, cancel: CancelToken) -> None:
        if cancel.is_set():
            self._replace(child, kill=True, respawn=False)
            cancel.raise_if_set()

    def _cancel(self, child: _Child, job: int) -> None:
        """Ask the child to stop, and end it if it does not. It stays warm if it does."""
        deadline = time.monotonic() + CANCEL_GRACE
        with suppress(OSError):
            child.connection.send(Cancel(job))
        with suppress(PoisonError):
            while time.monotonic() < deadline:
                if isinstance(self._receive(child, job), Failed | Done | Fatal):
                    return
            self._replace(child, kill=True)

    def _replace(self, child: _Child, *, kill: bool = False, respawn: bool = True) -> int:
        """End the child; the next one is started at once, so that it loads while the next song is fetched."""
        if kill:
            child.process.kill()
        status = child.end()
        log.warning("separation_process_ended", status=status)
        with self._lock:
            if self._child is child:
                self._child = _spawn(self._settings) if respawn else None
        return status


def _spawn(settings: ChildSettings) -> _Child:
    ours, theirs = Pipe()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "processor.child", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
    ours.send(settings)
    return _Child(process, ours)


def _error(failed: Failed) -> PipelineError:
    kinds: dict[ErrorKind, Callable[..., PipelineError]] = {
        ErrorKind.PERMANENT: PermanentError,
        ErrorKind.TRANSIENT: TransientError,
        ErrorKind.INFRASTRUCTURE: InfrastructureError,
        ErrorKind.POISON: PoisonError,
        ErrorKind.CANCELLED: CancelledError,
    }
    return kinds[failed.kind](failed.message, code=failed.code)


def _end(status: int) -> str:
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
