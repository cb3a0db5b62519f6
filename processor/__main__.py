"""``python -m processor``: runs one processor. Its exit status is an ``ExitCode``."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
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
from pipeline.service.arguments import parse_service_arguments
from pipeline.service.logs import get_logger
from pipeline.service.run import run_service
from pipeline.service.shutdown import ExitCode, StopSignal
from pipeline.service.waiting import component_addresses
from pipeline.service.workdir import WorkDir
from pipeline.storage.factory import open_handoff
from pipeline.topics import Topics
from pipeline.transport.factory import open_transport
from processor.disk_budget import DiskBudget
from processor.download_lanes import DownloadLanes
from processor.ipc import ChildSettings
from processor.job import JobLimits, SeparationHandler
from processor.models.encryption.key import key_for_child
from processor.sandbox.client import AudioSandbox
from processor.separation.options import DeviceOptions
from processor.system.cpu import usable_cores
from processor.system.linux import forbid_inspection
from processor.workers.devices import select_devices
from processor.workers.pool import WorkerPool
from processor.workers.supervisor import COMMAND, WorkerSupervisor

log = get_logger(__name__)

#: Default of the consumer's ``max.poll.interval.ms``: a client that does not poll for this long loses its jobs.
MAX_POLL_INTERVAL_MS = 600_000


def main(command: Sequence[str] = COMMAND) -> ExitCode:
    """Run until a signal arrives. ``command`` is the command line of the child processes."""
    return run_service("processor", lambda settings, stop: _run(settings, stop, command))


def _run(settings: Settings, stop: StopSignal, command: Sequence[str]) -> None:
    """Open the resources in the order of their dependencies and consume; close them in reverse order."""
    worker, download = settings.worker, settings.download
    forbid_inspection()  # other processes of the same user must not read the credentials from the memory of this one
    with ExitStack() as resources:
        workdir = resources.enter_context(closing(WorkDir(settings.state.work_dir)))
        sandbox = resources.enter_context(closing(AudioSandbox()))
        pool = resources.enter_context(closing(_create_pool(settings, stop, workdir, command)))
        transport = resources.enter_context(
            closing(open_transport(settings, max_poll_interval_ms=MAX_POLL_INTERVAL_MS))
        )
        topics = Topics.from_settings(settings)
        handler = SeparationHandler(
            pool=pool,
            sandbox=sandbox,
            budget=DiskBudget(worker.prefetch_bytes, stop, len(pool)),
            handoff=open_handoff(settings),
            guard=UrlGuard.from_settings(download),
            reporter=EventReporter(transport, topics.events),
            workdir=workdir,
            limits=JobLimits(
                download=DownloadLimits.from_settings(download),
                max_seconds=download.max_audio_seconds,
                job_timeout=worker.job_timeout,
                job_timeout_base=worker.job_timeout_base,
                job_timeout_factor=worker.job_timeout_factor,
            ),
            lanes=DownloadLanes(len(pool) + worker.prefetch, download.download_timeout),
            result_topic=topics.results,
            connection_options=ConnectionOptions.from_settings(download),
            rate=RateLimit.from_settings(download),
        )
        shutdown = CancelToken()
        stop.on_request(lambda: shutdown.cancel(ErrorCode.SHUTTING_DOWN))
        WorkerProcess(
            transport=transport,
            topics=topics,
            sources=topics.jobs,
            group=settings.kafka.processor_group,
            job=SeparationTask,
            handler=handler,
            policy=RetryPolicy(
                max_attempts=worker.max_attempts, max_crashes=worker.max_crashes, delays=worker.retry_delays
            ),
            concurrency=len(pool) + worker.prefetch,
            health=HealthAddress(worker.processor_health_host, worker.processor_health_port, "PROCESSOR_HEALTH_PORT"),
            checks={"handoff": handler.handoff.check},
            own_checks={"model": pool.check},
            addresses=component_addresses(settings),
            details={"children": pool.status, "sandbox": sandbox.status},
            # Without a loaded model no job could be done, so no job is taken before one child is ready.
            prepare=lambda: _prepare(sandbox, workdir, pool, settings.model.model_name, shutdown),
        ).run(stop)


def _prepare(sandbox: AudioSandbox, workdir: WorkDir, pool: WorkerPool, model: str, shutdown: CancelToken) -> None:
    """Wait until one child can separate songs, and they can be decoded. Raises InfrastructureError, CancelledError.

    The child downloads its model first if need be.
    """
    log.info("loading_model", model=model)
    pool.start(shutdown)
    with workdir.job() as folder:
        sandbox.check(folder)


def _create_pool(settings: Settings, stop: StopSignal, workdir: WorkDir, command: Sequence[str]) -> WorkerPool:
    """Create the supervisors of ``worker.concurrency`` children for each device.

    Raises ConfigError, and InfrastructureError if the key of encrypted models cannot be read.
    """
    per_device, job_numbers = settings.worker.concurrency, itertools.count(1)
    devices = select_devices(settings.worker.devices, os.environ, require_gpu=settings.model.require_gpu)
    count = per_device * len(devices)
    log.info("devices_chosen", devices=[device.label for device in devices], children=count)
    child = ChildSettings(
        model=settings.model,
        scratch_dir=workdir.path,
        download=settings.download,
        log=settings.log,
        children_on_device=per_device,
        children_on_machine=count,
        # More threads than cores make all children slower.
        threads=None if count == 1 else max(1, usable_cores() // count),
        device=DeviceOptions.from_settings(settings.device, keep_engines=not settings.model.encrypts),
        model_key=key_for_child(settings.model),
    )
    supervisors = []
    for device in devices * per_device:
        require_gpu = settings.model.require_gpu or device.must_be_gpu
        settings_of_child = replace(child, model=settings.model.model_copy(update={"require_gpu": require_gpu}))
        supervisors.append(WorkerSupervisor(settings_of_child, command, device=device, numbers=job_numbers))
    return WorkerPool(supervisors, stop)


def exit_process(status: ExitCode) -> NoReturn:
    """End the process without joining its threads: an abandoned upload may still block in one of them."""
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    parse_service_arguments("processor", "Run one processor, which separates songs, until SIGTERM.")
    exit_process(main())
