"""``python -m processor``: one processor. Its exit status is an ``ExitCode``."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import NoReturn

from config import Settings
from pipeline.cancellation import CancelToken
from pipeline.consuming.retry import RetryPolicy
from pipeline.consuming.worker_process import HealthAddress, WorkerProcess
from pipeline.download import ConnectionOptions, DownloadLimits, UrlGuard
from pipeline.download.http.rate_limit import RateLimit
from pipeline.errors import ErrorCode
from pipeline.messages import SeparationTask
from pipeline.progress import EventReporter
from pipeline.service.logs import get_logger
from pipeline.service.run import run_service
from pipeline.service.shutdown import ExitCode, StopSignal
from pipeline.service.workdir import WorkDir
from pipeline.storage.factory import open_handoff
from pipeline.topics import Topics
from pipeline.transport import Transport
from pipeline.transport.factory import open_transport
from processor.disk_budget import DiskBudget
from processor.ipc import ChildSettings
from processor.job import Equipment, JobLimits
from processor.models.options import StoreOptions
from processor.separation.options import DeviceOptions
from processor.service import Processor
from processor.system.cpu import usable_cores
from processor.workers.devices import Device, select_devices
from processor.workers.pool import WorkerPool
from processor.workers.supervisor import COMMAND, WorkerSupervisor

log = get_logger(__name__)

#: After this long without a poll a hung client loses its jobs, ms, unless the setting says otherwise.
MAX_POLL_INTERVAL_MS = 600_000


def main(command: Sequence[str] = COMMAND) -> ExitCode:
    """Run until a signal comes. ``command``: what is run in the child."""
    return run_service("processor", lambda settings, stop: _run(settings, stop, command))


def _run(settings: Settings, stop: StopSignal, command: Sequence[str]) -> None:
    with ExitStack() as stack:
        workdir = WorkDir(settings.state.work_dir)
        stack.callback(workdir.close)
        pool = _pool(settings, stop, workdir, command)
        stack.callback(pool.close)
        transport = open_transport(settings, max_poll_interval_ms=MAX_POLL_INTERVAL_MS)
        stack.callback(transport.close)
        topics = Topics.from_settings(settings)
        equipment = _equipment(settings, stop, EventReporter(transport, topics.events), pool, workdir)
        _worker(settings, stop, transport, topics, equipment).run(stop)


def _pool(settings: Settings, stop: StopSignal, workdir: WorkDir, command: Sequence[str]) -> WorkerPool:
    """A child, or more, for each device. Raises ConfigError for devices that cannot be."""
    worker, numbers = settings.worker, itertools.count(1)
    devices = select_devices(worker.devices, os.environ, require_gpu=settings.model.require_gpu)
    children = [device for _ in range(worker.concurrency) for device in devices]
    log.info("devices_chosen", devices=[device.label for device in devices], children=len(children))
    alone = _child_settings(settings, workdir)

    def process(device: Device) -> WorkerSupervisor:
        own = replace(
            alone,
            require_gpu=alone.require_gpu or device.must_be_gpu,
            on_device=worker.concurrency,
            in_all=len(children),
            threads=_threads(len(children)),
        )
        return WorkerSupervisor(own, command, device=device, numbers=numbers)

    return WorkerPool([process(device) for device in children], stop)


def _threads(children: int) -> int | None:
    """Each child's part of the cores: more threads than cores make all of them slower."""
    return None if children == 1 else max(1, usable_cores() // children)


def _child_settings(settings: Settings, workdir: WorkDir) -> ChildSettings:
    models = StoreOptions.from_settings(settings.model)
    return ChildSettings(
        model_dir=settings.model.model_dir.absolute(),
        model_name=settings.model.model_name,
        require_gpu=settings.model.require_gpu,
        scratch_dir=workdir.path,
        download=settings.download,
        models=models,
        log=settings.log,
        pool_bytes=settings.model.pool_bytes,
        device=DeviceOptions.from_settings(settings.device, keep_engines=not models.seals),
    )


def _equipment(
    settings: Settings, stop: StopSignal, reporter: EventReporter, pool: WorkerPool, workdir: WorkDir
) -> Equipment:
    worker = settings.worker
    return Equipment(
        pool=pool,
        budget=DiskBudget(worker.prefetch_bytes, stop, len(pool)),
        handoff=open_handoff(settings),
        guard=UrlGuard.from_settings(settings.download),
        reporter=reporter,
        workdir=workdir,
        connection_options=ConnectionOptions.from_settings(settings.download),
        rate=RateLimit.from_settings(settings.download),
        limits=JobLimits(
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
    worker, pool = settings.worker, equipment.pool
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
        concurrency=len(pool) + worker.prefetch,
        health=HealthAddress(worker.processor_health_host, worker.processor_health_port, "PROCESSOR_HEALTH_PORT"),
        checks={"model": pool.check, "handoff": equipment.handoff.check},
        details={"children": pool.status},
        # Refusing to start is better than taking jobs that cannot be done: without the model nothing is consumed.
        prepare=lambda: pool.start(loading),
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
