"""``python -m uploader``: one uploader. Its exit status is an ``ExitCode``."""

from __future__ import annotations

import sys

from config import Settings
from pipeline.consuming.retry import RetryPolicy
from pipeline.consuming.worker_process import HealthAddress, WorkerProcess
from pipeline.download import ConnectionOptions, UrlGuard
from pipeline.messages import SeparationResult
from pipeline.progress import EventReporter
from pipeline.service.run import run_service
from pipeline.service.shutdown import ExitCode, StopSignal
from pipeline.service.workdir import WorkDir
from pipeline.storage.factory import open_handoff, open_store
from pipeline.topics import Topics
from pipeline.transport import Transport
from pipeline.transport.factory import open_transport
from uploader.outcome_store import OutcomeStore
from uploader.publish import StemPublisher
from uploader.service import Uploader
from uploader.webhook import WebhookSender

#: After this long without a poll a hung client loses its jobs, ms, unless the setting says otherwise.
MAX_POLL_INTERVAL_MS = 300_000


def main() -> ExitCode:
    """Run until a signal comes."""
    return run_service("uploader", _run)


def _run(settings: Settings, stop: StopSignal) -> None:
    transport = open_transport(settings, max_poll_interval_ms=MAX_POLL_INTERVAL_MS)
    try:
        _consume(settings, transport, stop)
    finally:
        transport.close()


def _consume(settings: Settings, transport: Transport, stop: StopSignal) -> None:
    handoff, store = open_handoff(settings), open_store(settings)
    workdir = WorkDir(settings.state.work_dir)
    topics = Topics.from_settings(settings)
    webhook, worker = settings.webhook, settings.worker
    secrets = webhook.secret.get_secret_value().split() if webhook.secret else ()
    connection_options = ConnectionOptions.for_webhooks(settings.download)
    uploader = Uploader(
        StemPublisher(handoff, store, workdir),
        OutcomeStore(store),
        WebhookSender(UrlGuard.from_settings(settings.download), secrets, webhook.timeout, connection_options),
        EventReporter(transport, topics.events),
        task_topic=settings.kafka.task_topic,
        result_topic=topics.results,
        dead_letter_topic=topics.dead_letters,
    )
    try:
        WorkerProcess(
            settings=settings,
            transport=transport,
            topics=topics,
            sources=[topics.results],
            group=settings.kafka.uploader_group,
            job=SeparationResult,
            worker=uploader,
            policy=RetryPolicy(
                max_attempts=webhook.max_attempts, max_crashes=worker.max_crashes, delays=worker.retry_delays
            ),
            concurrency=worker.uploader_concurrency,
            health=HealthAddress(worker.uploader_health_host, worker.uploader_health_port, "UPLOADER_HEALTH_PORT"),
            checks={"handoff": handoff.check, "storage": store.check},
        ).run(stop)
    finally:
        workdir.close()


if __name__ == "__main__":
    sys.exit(main())
