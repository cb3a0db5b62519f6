"""``python -m processor.workers.child FD``: the process that owns the model and the device.

It obeys one parent over the pipe ``FD`` and ends with it. Whatever goes wrong in here (a crash of the device's
driver, a kill for lack of memory, a kernel that hangs) costs this process and not the consumer.
"""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cancellation import CancelToken
from pipeline.errors import ErrorCode, PipelineError
from pipeline.files import disk_error
from pipeline.service.logs import configure_logging, get_logger, log_context
from pipeline.service.shutdown import ExitCode
from processor.ipc import (
    Cancel,
    ChildSettings,
    Command,
    Done,
    Failed,
    Fatal,
    JobReport,
    LoadedModels,
    ModelLoaded,
    Progress,
    Ready,
    Report,
    Separate,
    SetupFailed,
    Started,
)
from processor.system import cpu

if TYPE_CHECKING:
    from processor.engine.engine import SeparationEngine

log = get_logger(__name__)

#: Shortest time between two progress reports, s.
PROGRESS_INTERVAL = 0.2
#: The kernel, short of memory, should end this process rather than the consumer (see proc(5), oom_score_adj).
OOM_SCORE = "500"


class Parent:
    """The other end of the pipe. Reads it in a thread of its own, so that a cancel is heard during the work."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[Separate, CancelToken]] = queue.SimpleQueue()
        self._tokens: dict[int, CancelToken] = {}

    def listen(self) -> None:
        """Start reading."""
        threading.Thread(target=self._read, name="parent", daemon=True).start()

    def next_job(self) -> tuple[Separate, CancelToken]:
        """Wait for work."""
        return self._jobs.get()

    def tell(self, report: Report) -> None:
        """Send a report."""
        with self._sending:
            self._connection.send(report)

    def _read(self) -> None:
        try:
            while True:
                self._obey(self._connection.recv())
        finally:
            # The parent is gone, and with it everybody who could want the result.
            os._exit(ExitCode.OK)

    def _obey(self, command: Command) -> None:
        match command:
            case Separate():
                self._tokens = {command.job: CancelToken()}
                self._jobs.put((command, self._tokens[command.job]))
            case Cancel() if command.job in self._tokens:
                self._tokens[command.job].cancel(ErrorCode.SHUTTING_DOWN)


def main(descriptor: int) -> int:
    """Set up, then separate until the parent goes."""
    # The parent decides when to stop: Ctrl-C and some supervisors' SIGTERM reach every process of a service, and a
    # child that obeyed would be taken for one that its job has killed.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    os.set_inheritable(descriptor, False)
    # No progress bars in a service's log.
    os.environ.setdefault("TQDM_DISABLE", "1")
    # onnxruntime reports to its makers unless it is told not to.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    cpu.configure_threads()
    connection = Connection(descriptor)
    try:
        settings: ChildSettings = connection.recv()
    except EOFError:
        return ExitCode.OK
    configure_logging("processor-child", settings.log)
    parent = Parent(connection)
    parent.listen()
    started = time.monotonic()
    engine = _set_up(settings, parent)
    if engine is None:
        return ExitCode.UNAVAILABLE
    parent.tell(LoadedModels(engine.loaded))
    parent.tell(Ready(settings.model_name, engine.device, round(time.monotonic() - started, 3)))
    while True:
        job, cancel = parent.next_job()
        with log_context(task_uuid=job.task_uuid):
            report = _separate(engine, job, cancel, parent)
        parent.tell(LoadedModels(engine.loaded))
        parent.tell(report)
        if isinstance(report, Fatal):
            return ExitCode.INTERNAL
        gc.collect()


def _set_up(settings: ChildSettings, parent: Parent) -> SeparationEngine | None:
    """The engine with its model loaded; None, and the parent is told why, if that cannot be."""
    try:
        # A minute of imports and loading, so late that the parent's end is being watched for meanwhile.
        from processor.engine.engine import SeparationEngine
        from processor.models import ModelDownloads, ModelStore
        from processor.system.memory import freeze_loaded_objects, memory_in_use, pool_limit

        network = ModelDownloads.from_settings(settings.download)
        models = ModelStore(settings.model_dir, network, settings.models)
        engine = SeparationEngine(
            models,
            settings.scratch_dir,
            require_gpu=settings.require_gpu,
            preferred=settings.model_name,
            pool_bytes=pool_limit(
                memory_in_use(), settings.pool_bytes, on_device=settings.on_device, in_all=settings.in_all
            ),
            device=settings.device,
        )
        engine.warm_up(settings.model_name, settings.scratch_dir)
        freeze_loaded_objects()
    except PipelineError as error:
        parent.tell(SetupFailed(error.code, error.message))
        return None
    except Exception as error:  # the boundary between the library's exceptions and ours
        full = isinstance(error, OSError) and disk_error(error).code is ErrorCode.DISK_FULL
        if not full:
            log.exception("setup_failed")
        why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        code = ErrorCode.DISK_FULL if full else ErrorCode.INTERNAL
        parent.tell(SetupFailed(code, f"the separation cannot be set up: {why}"))
        return None
    return engine


def _separate(engine: SeparationEngine, job: Separate, cancel: CancelToken, parent: Parent) -> JobReport:
    from processor.engine.engine import classify
    from processor.models.presets import resolved

    last = 0.0

    def on_progress(fraction: float) -> None:
        nonlocal last
        cancel.raise_if_set()
        if time.monotonic() - last >= PROGRESS_INTERVAL:
            last = time.monotonic()
            parent.tell(Progress(job.job, fraction))

    @contextlib.contextmanager
    def loading() -> Iterator[None]:
        parent.tell(Started(job.job))
        yield
        cancel.raise_if_set()
        parent.tell(ModelLoaded(job.job))

    try:
        stems = engine.separate(job, on_progress, loading)
    except Exception as error:  # the boundary between the library's exceptions and ours
        known = classify(error)
        if known is None:
            log.exception("separation_crashed")
            return Fatal(job.job, f"the separation ended with {type(error).__name__}")
        if known is not error and known.code is not ErrorCode.DISK_FULL:
            log.exception("separation_failed")
        return Failed(job.job, known.kind, known.code, known.message)
    return Done(job.job, stems, str(resolved(job.model)), engine.device, engine.degraded)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
