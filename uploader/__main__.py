"""``python -m uploader``: one uploader. Its exit status is an ``ExitCode``."""

from __future__ import annotations

import sys

from config import ConfigError, Settings, WebhookSettings, load
from pipeline.download import UrlGuard
from pipeline.errors import InfrastructureError
from pipeline.events import Reporter
from pipeline.lifecycle import ExitCode, StopSignal
from pipeline.messages import SeparationResult
from pipeline.retry import Backoff, RetryPolicy
from pipeline.storage.factory import open_handoff, open_store
from pipeline.telemetry import configure_logging, get_logger
from pipeline.transport import Transport
from pipeline.transport.factory import open_transport, topics
from pipeline.workdir import WorkDir
from pipeline.worker import HealthAddress, WorkerProcess
from uploader.publish import StemPublisher
from uploader.service import Uploader
from uploader.webhook import WebhookSender

log = get_logger(__name__)

#: After this long without a poll a hung client loses its jobs, ms, unless the setting says otherwise.
MAX_POLL_INTERVAL_MS = 300_000


def main() -> ExitCode:
    """Run until a signal comes."""
    try:
        settings = load()
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.CONFIG
    configure_logging("uploader", settings.log)
    stop = StopSignal(settings.worker.shutdown_grace)
    stop.install()
    try:
        transport = open_transport(settings, max_poll_interval_ms=MAX_POLL_INTERVAL_MS)
        try:
            _consume(settings, transport, stop)
        finally:
            transport.close()
    except InfrastructureError as error:
        log.error("cannot_start", code=error.code, error=error.message)
        return ExitCode.UNAVAILABLE
    log.info("stopped")
    return ExitCode.OK


def _consume(settings: Settings, transport: Transport, stop: StopSignal) -> None:
    handoff, store = open_handoff(settings), open_store(settings)
    workdir = WorkDir(settings.state.work_dir)
    secret = settings.webhook.secret
    guard = UrlGuard(settings.download.allow_private_networks)
    uploader = Uploader(
        StemPublisher(handoff, store, workdir),
        WebhookSender(guard, secret.get_secret_value().split() if secret else (), settings.webhook.timeout),
        Reporter(transport, settings.kafka.event_topic),
        result_topic=settings.kafka.result_topic,
        dead_letter_topic=settings.kafka.dead_letter_topic,
    )
    try:
        worker = settings.worker
        WorkerProcess(
            settings=settings,
            transport=transport,
            topic=settings.kafka.result_topic,
            group=settings.kafka.uploader_group,
            job=SeparationResult,
            worker=uploader,
            policy=webhook_policy(settings.webhook, worker.max_crashes),
            health=HealthAddress(worker.uploader_health_host, worker.uploader_health_port, "UPLOADER_HEALTH_PORT"),
            checks={"handoff": handoff.check, "storage": store.check},
        ).run(topics(settings.kafka, settings.state.retention_seconds), stop)
    finally:
        workdir.close()


def webhook_policy(settings: WebhookSettings, max_crashes: int) -> RetryPolicy:
    """How a webhook is tried again; the uploads before it are not repeated."""
    return RetryPolicy(
        max_attempts=settings.max_attempts,
        max_crashes=max_crashes,
        transient=Backoff(settings.retry_base, settings.retry_cap),
    )


if __name__ == "__main__":
    sys.exit(main())
