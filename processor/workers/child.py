"""``python -m processor.workers.child FD``: the process that owns the model and the device.

It receives commands from one parent over the pipe ``FD``, and exits when the parent does. A crash of the device's
driver, an out-of-memory kill or a hanging kernel affects this process only, not the consumer.
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
from typing import TYPE_CHECKING

from pipeline.cancellation import CancelToken
from pipeline.errors import ErrorCode, PipelineError
from pipeline.files import disk_error
from pipeline.service.logs import configure_logging, get_logger, log_context
from pipeline.service.shutdown import ExitCode
from processor.ipc import (
    COMMANDS,
    REPORTS,
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
from processor.system.channel import Channel, ProtocolError
from processor.system.linux import prefer_for_oom_kill

if TYPE_CHECKING:
    from processor.engine.engine import SeparationEngine

log = get_logger(__name__)

#: The shortest time between two progress reports, s.
PROGRESS_INTERVAL = 0.2


class ParentConnection:
    """The connection to the parent. A reader thread receives commands, so that a cancel arrives during the work."""

    def __init__(self, channel: Channel[Report, Command]) -> None:
        self._channel = channel
        self._send_lock = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[Separate, CancelToken]] = queue.SimpleQueue()
        self._tokens: dict[int, CancelToken] = {}

    def start(self) -> None:
        """Start the reader thread."""
        threading.Thread(target=self._read, name="parent", daemon=True).start()

    def next_job(self) -> tuple[Separate, CancelToken]:
        """Wait for the next job."""
        return self._jobs.get()

    def send(self, report: Report) -> None:
        """Send a report."""
        with self._send_lock:
            self._channel.send(report)

    def _read(self) -> None:
        try:
            while True:
                match self._channel.receive():
                    case Separate() as job:
                        self._tokens = {job.job: CancelToken()}
                        self._jobs.put((job, self._tokens[job.job]))
                    case Cancel() as cancel if cancel.job in self._tokens:
                        self._tokens[cancel.job].cancel(ErrorCode.SHUTTING_DOWN)
        finally:
            # The parent has exited: there is no receiver for a result.
            os._exit(ExitCode.OK)


def main(descriptor: int) -> int:
    """Load the model, then separate songs until the parent exits."""
    # The parent decides when to stop. Ctrl-C, and SIGTERM from some process supervisors, reach every process of a
    # service; if the child exited, the parent would blame the current job.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    prefer_for_oom_kill()
    os.set_inheritable(descriptor, False)
    # No progress bars in the log of a service.
    os.environ.setdefault("TQDM_DISABLE", "1")
    # Disable the telemetry of onnxruntime.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    cpu.configure_threads(os.environ)
    channel: Channel[Report, Command] = Channel(Connection(descriptor), sends=REPORTS, receives=COMMANDS)
    try:
        settings = channel.receive()
    except EOFError:
        return ExitCode.OK
    if not isinstance(settings, ChildSettings):
        raise ProtocolError("the settings were expected first")
    configure_logging("processor-child", settings.log)
    parent = ParentConnection(channel)
    parent.start()
    started = time.monotonic()
    engine = _set_up(settings, parent)
    if engine is None:
        return ExitCode.UNAVAILABLE
    parent.send(LoadedModels(engine.loaded))
    parent.send(Ready(settings.model.model_name, engine.device, round(time.monotonic() - started, 3)))
    while True:
        job, cancel = parent.next_job()
        with log_context(task_uuid=job.task_uuid):
            report = _separate(engine, job, cancel, parent)
        parent.send(LoadedModels(engine.loaded))
        parent.send(report)
        if isinstance(report, Fatal):
            return ExitCode.INTERNAL
        gc.collect()


def _set_up(settings: ChildSettings, parent: ParentConnection) -> SeparationEngine | None:
    """Return the engine with its model loaded. On failure, report the reason to the parent and return None."""
    try:
        # Imports and loading may take a minute. The reader thread runs by now, so that the parent's exit is noticed.
        from processor.engine.engine import SeparationEngine
        from processor.models import ModelDownloads, ModelStore
        from processor.models.encryption.key import received_key
        from processor.system.memory import memory_in_use, pool_limit

        model = settings.model
        settings.scratch_dir.mkdir(parents=True, exist_ok=True)  # a cleaner of temporary files may have removed it
        engine = SeparationEngine(
            ModelStore(model, ModelDownloads.from_settings(settings.download), received_key(settings.model_key)),
            settings.scratch_dir,
            require_gpu=model.require_gpu,
            preferred=model.model_name,
            pool_bytes=pool_limit(
                memory_in_use(),
                model.pool_bytes,
                children_on_device=settings.children_on_device,
                children_on_machine=settings.children_on_machine,
            ),
            device=settings.device,
        )
        engine.warm_up(model.model_name, settings.scratch_dir)
        # Collections skip the loaded objects until ``Memory.give_back``: modules stay loaded for good, and models until
        # others need their memory. A scan of torch's objects takes 0.2 s of CPU time after every song.
        gc.collect()
        gc.freeze()
    except PipelineError as error:
        parent.send(SetupFailed(error.code, error.message))
        return None
    except (Exception, SystemExit) as error:  # the boundary between the library's exceptions and ours
        disk_full = isinstance(error, OSError) and disk_error(error).code is ErrorCode.DISK_FULL
        if not disk_full:
            log.exception("setup_failed")
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        code = ErrorCode.DISK_FULL if disk_full else ErrorCode.INTERNAL
        parent.send(SetupFailed(code, f"the separation cannot be set up: {reason}"))
        return None
    return engine


def _separate(engine: SeparationEngine, job: Separate, cancel: CancelToken, parent: ParentConnection) -> JobReport:
    from processor.engine.engine import classify
    from processor.models.presets import resolved

    last_report = 0.0

    def on_progress(fraction: float) -> None:
        nonlocal last_report
        cancel.raise_if_set()
        if time.monotonic() - last_report >= PROGRESS_INTERVAL:
            last_report = time.monotonic()
            parent.send(Progress(job.job, fraction))

    @contextlib.contextmanager
    def loading() -> Iterator[None]:
        parent.send(Started(job.job))
        yield
        cancel.raise_if_set()
        parent.send(ModelLoaded(job.job))

    try:
        stems = engine.separate(job, on_progress, loading)
    except (Exception, SystemExit) as error:  # the boundary between the library's exceptions and ours
        known = classify(error)
        if known is None or (known is not error and not engine.is_healthy()):
            log.exception("separation_crashed")
            return Fatal(job.job, f"the separation ended with {type(error).__name__}")
        if known is not error and known.code is not ErrorCode.DISK_FULL:
            log.exception("separation_failed")
        return Failed(job.job, known.kind, known.code, known.message)
    return Done(job.job, stems, str(resolved(job.model)), engine.device, engine.degraded)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
