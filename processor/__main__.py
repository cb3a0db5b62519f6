"""``python -m processor``: one processor. Its exit status is an ``ExitCode``."""

from __future__ import annotations

import sys

from config import ConfigError, Settings, load
from pipeline.cancel import CancelToken
from pipeline.download import DownloadLimits, UrlGuard
from pipeline.errors import CancelledError, ErrorCode, InfrastructureError, PoisonError
from pipeline.events import Reporter
from pipeline.lifecycle import ExitCode, StopSignal
from pipeline.messages import SeparationTask
from pipeline.storage.factory import open_handoff
from pipeline.telemetry import configure_logging, get_logger
from pipeline.transport import Transport
from pipeline.transport.factory import open_transport, topics
from pipeline.workdir import WorkDir
from pipeline.worker import HealthAddress, WorkerProcess, job_policy
from processor.protocol import ChildSettings
from processor.separation import SeparationProcess
from processor.service import Limits, Processor

log = get_logger(__name__)

#: After this long without a poll a hung client loses its jobs, ms, unless the setting says otherwise.
MAX_POLL_INTERVAL_MS = 600_000


def main() -> ExitCode:
    """Run until a signal comes."""
    try:
        settings = load()
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.CONFIG
    configure_logging("processor", settings.log)
    stop = StopSignal(settings.worker.shutdown_grace)
    stop.install()
    try:
        _run(settings, stop)
    except (InfrastructureError, PoisonError) as error:
        log.error("cannot_start", code=error.code, error=error.message)
        return ExitCode.UNAVAILABLE
    except CancelledError:
        pass  # told to stop while the model was being loaded
    log.info("stopped")
    return ExitCode.OK


def _run(settings: Settings, stop: StopSignal) -> None:
    workdir = WorkDir(settings.state.work_dir)
    separation = SeparationProcess(
        ChildSettings(
            model_dir=settings.model.model_dir.absolute(),
            model_name=settings.model.model_name,
            require_gpu=settings.model.require_gpu,
            scratch_dir=workdir.path,
            allow_private_networks=settings.download.allow_private_networks,
            log=settings.log,
        )
    )
    try:
        # Refusing to start is better than taking jobs that cannot be done: without the model nothing is consumed.
        separation.start(_cancelled_by(stop))
        transport = open_transport(settings, max_poll_interval_ms=MAX_POLL_INTERVAL_MS)
        try:
            _consume(settings, transport, separation, workdir, stop)
        finally:
            transport.close()
    finally:
        separation.close()
        workdir.close()


def _cancelled_by(stop: StopSignal) -> CancelToken:
    token = CancelToken()
    stop.on_request(lambda: token.cancel(ErrorCode.SHUTTING_DOWN))
    return token


def _consume(
    settings: Settings, transport: Transport, separation: SeparationProcess, workdir: WorkDir, stop: StopSignal
) -> None:
    processor = Processor(
        separation=separation,
        handoff=open_handoff(settings),
        guard=UrlGuard(settings.download.allow_private_networks),
        reporter=Reporter(transport, settings.kafka.event_topic),
        workdir=workdir,
        limits=Limits(
            download=DownloadLimits.from_settings(settings.download),
            max_seconds=settings.download.max_audio_seconds,
            job_timeout=settings.worker.job_timeout,
        ),
        result_topic=settings.kafka.result_topic,
    )
    worker = settings.worker
    WorkerProcess(
        settings=settings,
        transport=transport,
        topic=settings.kafka.task_topic,
        group=settings.kafka.processor_group,
        job=SeparationTask,
        worker=processor,
        policy=job_policy(worker),
        health=HealthAddress(worker.processor_health_host, worker.processor_health_port, "PROCESSOR_HEALTH_PORT"),
        checks={"model": separation.check, "handoff": processor.handoff.check},
    ).run(topics(settings.kafka, settings.state.retention_seconds), stop)


if __name__ == "__main__":
    sys.exit(main())
