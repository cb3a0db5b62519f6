"""``python -m uploader``: runs one uploader. Its exit status is an ``ExitCode``."""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing

from config import Settings
from pipeline.consuming.retry import RetryPolicy
from pipeline.consuming.worker_process import HealthAddress, WorkerProcess
from pipeline.download import ConnectionOptions, UrlGuard
from pipeline.messages import SeparationResult
from pipeline.progress import EventReporter
from pipeline.service.arguments import parse_service_arguments
from pipeline.service.run import run_service
from pipeline.service.shutdown import ExitCode, StopSignal
from pipeline.service.waiting import component_addresses
from pipeline.service.workdir import WorkDir
from pipeline.storage.factory import open_handoff, open_store
from pipeline.storage.retention import Retention, Sweeper, sweeping
from pipeline.topics import Topics
from pipeline.transport.factory import open_transport
from uploader.outcome_store import OutcomeStore
from uploader.publish import StemPublisher
from uploader.receiver_share import ReceiverShare
from uploader.service import UploadHandler
from uploader.webhook import WebhookSender

#: Default of the consumer's ``max.poll.interval.ms``: a client that does not poll for this long loses its jobs.
MAX_POLL_INTERVAL_MS = 300_000


def main() -> ExitCode:
    """Run until a signal arrives."""
    return run_service("uploader", _run)


def _run(settings: Settings, stop: StopSignal) -> None:
    """Open the resources in the order of their dependencies and consume; close them in reverse order."""
    webhook, worker = settings.webhook, settings.worker
    with ExitStack() as resources:
        transport = resources.enter_context(
            closing(open_transport(settings, max_poll_interval_ms=MAX_POLL_INTERVAL_MS))
        )
        handoff, store = open_handoff(settings), open_store(settings)
        retention = Retention.from_settings(settings)
        resources.enter_context(sweeping(Sweeper(store, handoff, retention), retention.pause))
        workdir = resources.enter_context(closing(WorkDir(settings.state.work_dir)))
        topics = Topics.from_settings(settings)
        handler = UploadHandler(
            publisher=StemPublisher(handoff, store, workdir, dither=worker.dither),
            outcomes=OutcomeStore(store),
            webhook=WebhookSender(
                UrlGuard.from_settings(settings.download),
                webhook.secret.get_secret_value().split() if webhook.secret else (),
                webhook.timeout,
                ConnectionOptions.for_webhooks(settings.download),
            ),
            receivers=ReceiverShare(worker.uploader_concurrency),
            reporter=EventReporter(transport, topics.events),
            task_topic=settings.kafka.task_topic,
            result_topic=topics.results,
            dead_letter_topic=topics.dead_letters,
        )
        WorkerProcess(
            transport=transport,
            topics=topics,
            sources=[topics.results],
            group=settings.kafka.uploader_group,
            job=SeparationResult,
            handler=handler,
            policy=RetryPolicy(
                max_attempts=webhook.max_attempts, max_crashes=worker.max_crashes, delays=worker.retry_delays
            ),
            concurrency=worker.uploader_concurrency,
            health=HealthAddress(worker.uploader_health_host, worker.uploader_health_port, "UPLOADER_HEALTH_PORT"),
            checks={"handoff": handoff.check, "storage": store.check},
            addresses=component_addresses(settings),
        ).run(stop)


if __name__ == "__main__":
    parse_service_arguments("uploader", "Run one uploader, which stores stems and calls webhooks, until SIGTERM.")
    sys.exit(main())
