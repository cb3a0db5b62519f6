"""Test that no job is lost while the broker or the store is down."""

from __future__ import annotations

import pytest

from devstack.processes.server import LocalServer
from tests.e2e.audio import Recording
from tests.e2e.endings import check_successes
from tests.e2e.service import Service
from tests.support.source_server import SourceServer
from tests.support.webhook_receiver import WebhookReceiver

pytestmark = pytest.mark.slow


def test_store_is_stopped_while_jobs_run(
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


def test_broker_is_killed_during_a_separation(
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
    response = service.request(source.url("/song"), receiver.url)
    assert (response.status_code, "Retry-After" in response.headers) == (503, True)
    servers["kafka"].start()
    check_successes(service, receiver, [task_uuid], long_song)


def test_uploader_is_killed_during_an_upload(
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
    service.wait(lambda: service.jobs_in_progress("uploader") == 1, lambda: "the uploader has not started")
    service.kill("uploader")
    servers["s3"].resume()
    service.start("uploader")
    check_successes(service, receiver, [task_uuid], short_song)
