"""A broker or a store that is away for a while costs time, and no job."""

from __future__ import annotations

import pytest

from devstack.server import LocalServer
from tests.e2e.audio import Recording
from tests.e2e.endings import check_successes
from tests.e2e.service import Service
from tests.support.source_server import SourceServer
from tests.support.webhook_receiver import WebhookReceiver

pytestmark = pytest.mark.slow


def test_the_store_is_stopped_while_jobs_flow(
    service: Service,
    servers: dict[str, LocalServer],
    source: SourceServer,
    receiver: WebhookReceiver,
    short_song: Recording,
) -> None:
    source.serve_bytes("/song", short_song.file)
    jobs = [service.post(source.url("/song"), receiver.url) for _ in range(2)]
    servers["s3"].stop()
    jobs.append(service.post(source.url("/song"), receiver.url))
    service.wait_for_log("processor", event="job_attempt_failed", kind="infrastructure")
    servers["s3"].start()
    check_successes(service, receiver, jobs, short_song)


def test_the_broker_is_killed_while_a_job_separates(
    service: Service,
    servers: dict[str, LocalServer],
    source: SourceServer,
    receiver: WebhookReceiver,
    long_song: Recording,
) -> None:
    source.serve_bytes("/song", long_song.file)
    task_uuid = service.post(source.url("/song"), receiver.url)
    service.watcher.wait_for_separation(task_uuid)
    servers["kafka"].kill()
    refused = service.ask(source.url("/song"), receiver.url)
    assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
    servers["kafka"].start()
    check_successes(service, receiver, [task_uuid], long_song)


def test_the_uploader_is_killed_in_the_midst_of_an_upload(
    service: Service,
    servers: dict[str, LocalServer],
    source: SourceServer,
    receiver: WebhookReceiver,
    short_song: Recording,
) -> None:
    source.serve_bytes("/song", short_song.file)
    uploader = service.stack.services["uploader"]
    uploader.pause()
    task_uuid = service.post(source.url("/song"), receiver.url)
    service.wait_for_log("processor", event="job_settled", task_uuid=task_uuid)
    servers["s3"].pause()
    uploader.resume()
    service.wait(lambda: service.in_hand("uploader") == 1, lambda: "the uploader has not begun")
    service.kill("uploader")
    servers["s3"].resume()
    service.start("uploader")
    check_successes(service, receiver, [task_uuid], short_song)
