"""``python -m processor``: one processor. Its exit status is an ``ExitCode``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NoReturn

from config import Settings
from pipeline.cancel import CancelToken
from pipeline.download import DownloadLimits, UrlGuard, Wire
from pipeline.download.wire.rate import RateLimit
from pipeline.errors import ErrorCode
from pipeline.events import Reporter
from pipeline.lifecycle import ExitCode, StopSignal
from pipeline.messages import SeparationTask
from pipeline.process import run_service
from pipeline.retry import RetryPolicy
from pipeline.storage.factory import open_handoff
from pipeline.topics import Topics
from pipeline.transport import Transport
from pipeline.transport.factory import open_transport
from pipeline.workdir import WorkDir
from pipeline.worker import HealthAddress, WorkerProcess
from processor.budget import DiskBudget
from processor.gate import DeviceGate
from processor.job import Equipment, Limits
from processor.models.options import StoreOptions
from processor.protocol import ChildSettings
from processor.separation import COMMAND, SeparationProcess
from processor.service import Processor

#: After this long without a poll a hung client loses its jobs, ms, unless the setting says otherwise.
MAX_POLL_INTERVAL_MS = 600_000


def main(command: Sequence[str] = COMMAND) -> ExitCode:
    """Run until a signal comes. ``command``: what is run in the child."""
    return run_service("processor", lambda settings, stop: _run(settings, stop, command))


def _run(settings: Settings, stop: StopSignal, command: Sequence[str]) -> None:
    with ExitStack() as stack:
        workdir = WorkDir(settings.state.work_dir)
        stack.callback(workdir.close)
        separation = SeparationProcess(_child_settings(settings, workdir), command)
        stack.callback(separation.close)
        transport = open_transport(settings, max_poll_interval_ms=MAX_POLL_INTERVAL_MS)
        stack.callback(transport.close)
        topics = Topics.from_settings(settings)
        equipment = _equipment(settings, stop, Reporter(transport, topics.events), separation, workdir)
        _worker(settings, stop, transport, topics, equipment).run(stop)


def _child_settings(settings: Settings, workdir: WorkDir) -> ChildSettings:
    return ChildSettings(
        model_dir=settings.model.model_dir.absolute(),
        model_name=settings.model.model_name,
        require_gpu=settings.model.require_gpu,
        scratch_dir=workdir.path,
        download=settings.download,
        models=StoreOptions.from_settings(settings.model),
        log=settings.log,
        pool_bytes=settings.model.pool_bytes,
    )


def _equipment(
    settings: Settings, stop: StopSignal, reporter: Reporter, separation: SeparationProcess, workdir: WorkDir
) -> Equipment:
    worker = settings.worker
    return Equipment(
        separation=separation,
        gate=DeviceGate(stop),
        budget=DiskBudget(worker.prefetch_bytes, stop),
        handoff=open_handoff(settings),
        guard=UrlGuard.from_settings(settings.download),
        reporter=reporter,
        workdir=workdir,
        wire=Wire.from_settings(settings.download),
        rate=RateLimit.from_settings(settings.download),
        limits=Limits(
            download=DownloadLimits.from_settings(settings.download),
            max_seconds=settings.download.max_audio_seconds,
            job_timeout=worker.job_timeout,
            job_timeout_base=worker.job_timeout_base,
            job_timeout_factor=worker.job_timeout_factor,
        ),
    )


def _worker(
    settings: Settings, stop: StopSignal, transport: Transport, topics: Topics, equipment: Equipment
) -> WorkerProcess[SeparationTask]:
    worker, separation = settings.worker, equipment.separation
    loading = _cancelled_by(stop)
    return WorkerProcess(
        settings=settings,
        transport=transport,
        topics=topics,
        sources=topics.jobs,
        group=settings.kafka.processor_group,
        job=SeparationTask,
        worker=Processor(equipment, topics.results),
        policy=RetryPolicy(
            max_attempts=worker.max_attempts, max_crashes=worker.max_crashes, delays=worker.retry_delays
        ),
        concurrency=1 + worker.prefetch,
        health=HealthAddress(worker.processor_health_host, worker.processor_health_port, "PROCESSOR_HEALTH_PORT"),
        checks={"model": separation.check, "handoff": equipment.handoff.check},
        # Refusing to start is better than taking jobs that cannot be done: without the model nothing is consumed.
        prepare=lambda: separation.start(loading),
    )


def _cancelled_by(stop: StopSignal) -> CancelToken:
    token = CancelToken()
    stop.on_request(lambda: token.cancel(ErrorCode.SHUTTING_DOWN))
    return token


def leave(status: ExitCode) -> NoReturn:
    """End the process now: an upload that was left to itself has threads that the interpreter would wait for."""
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    leave(main())
