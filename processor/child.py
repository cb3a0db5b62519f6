"""``python -m processor.child FD``: the process that owns the model and the device.

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
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from config import load
from pipeline.cancel import CancelToken
from pipeline.errors import ErrorCode, InfrastructureError, PipelineError
from pipeline.lifecycle import ExitCode
from pipeline.telemetry import configure_logging, get_logger
from processor.protocol import (
    Cancel,
    ChildSettings,
    Command,
    Done,
    Failed,
    Fatal,
    Progress,
    Ready,
    Report,
    Separate,
    SetupFailed,
)

if TYPE_CHECKING:
    from processor.engine import StockEngine

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
        while True:
            try:
                command: Command = self._connection.recv()
            except (EOFError, OSError):
                # The parent is gone, and with it everybody who could want the result.
                os._exit(ExitCode.OK)
            match command:
                case Separate():
                    self._tokens = {command.job: CancelToken()}
                    self._jobs.put((command, self._tokens[command.job]))
                case Cancel() if command.job in self._tokens:
                    self._tokens[command.job].cancel(ErrorCode.SHUTTING_DOWN)


def main(descriptor: int) -> int:
    """Set up, then separate until the parent goes."""
    # The parent decides when to stop; a Ctrl-C reaches the whole process group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    connection = Connection(descriptor)
    settings: ChildSettings = connection.recv()
    configure_logging("processor-child", load().log)
    parent = Parent(connection)
    parent.listen()
    started = time.monotonic()
    try:
        engine = _engine(settings)
    except PipelineError as error:
        parent.tell(SetupFailed(error.code, error.message))
        return ExitCode.UNAVAILABLE
    if settings.require_gpu and engine.device == "cpu":
        parent.tell(
            SetupFailed(ErrorCode.DEVICE_UNAVAILABLE, "REQUIRE_GPU is set, but separation would run on the CPU")
        )
        return ExitCode.UNAVAILABLE
    parent.tell(Ready(settings.model_name, engine.device, round(time.monotonic() - started, 3)))
    while True:
        job, cancel = parent.next_job()
        report = _separate(engine, job, cancel, parent)
        parent.tell(report)
        if isinstance(report, Fatal):
            return ExitCode.INTERNAL
        gc.collect()


def _engine(settings: ChildSettings) -> StockEngine:
    # A minute of imports and loading, so late that the parent's end is being watched for meanwhile.
    from processor.engine import StockEngine

    engine = StockEngine(settings.model_dir, settings.scratch_dir)
    engine.load(settings.model_name)
    if settings.require_gpu and engine.device == "cpu":
        raise InfrastructureError(
            "REQUIRE_GPU is set, but the model would run on the CPU: check the driver, and that CUDA builds of torch "
            "and onnxruntime are installed",
            code=ErrorCode.DEVICE_UNAVAILABLE,
        )
    return engine


def _separate(engine: StockEngine, job: Separate, cancel: CancelToken, parent: Parent) -> Report:
    from processor.engine import classify

    last = 0.0

    def on_progress(fraction: float) -> None:
        nonlocal last
        cancel.raise_if_set()
        if time.monotonic() - last >= PROGRESS_INTERVAL:
            last = time.monotonic()
            parent.tell(Progress(job.job, fraction))

    try:
        stems = engine.separate(job, on_progress)
    except Exception as error:  # the boundary between the library's exceptions and ours
        known = classify(error)
        if known is None:
            log.exception("separation_crashed")
            return Fatal(job.job, f"the separation ended with {type(error).__name__}")
        return Failed(job.job, known.kind, known.code, known.message)
    return Done(job.job, stems, job.model, engine.device)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
