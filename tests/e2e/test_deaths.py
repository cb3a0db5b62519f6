"""Test that a job survives the death of any process: it is redelivered and succeeds once."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from pipeline.messages import TaskState
from tests.e2e.audio import Recording, check_stems
from tests.e2e.endings import check_success
from tests.e2e.service import Service
from tests.e2e.watcher import PATIENCE
from tests.support.source_server import SourceServer
from tests.support.webhook_receiver import WebhookReceiver

pytestmark = pytest.mark.slow


@pytest.fixture
def separating(service: Service, source: SourceServer, receiver: WebhookReceiver, long_song: Recording) -> str:
    """Post a job and wait until the model separates it; return its id."""
    source.serve_bytes("/song", long_song.file)
    task_uuid = service.post(source.url("/song"), receiver.url)
    service.watcher.wait_for_separation(task_uuid)
    return task_uuid


def test_processor_is_killed(
    service: Service, separating: str, receiver: WebhookReceiver, long_song: Recording
) -> None:
    orphan = service.separation_process()
    service.kill("processor")
    gone, _ = psutil.wait_procs([orphan], PATIENCE)
    assert gone, "the separation process survives its parent"
    service.start("processor")
    check_success(service, receiver, separating, long_song)


@pytest.mark.usefixtures("quick_engine")
def test_separation_process_is_killed(
    service: Service, separating: str, receiver: WebhookReceiver, long_song: Recording
) -> None:
    service.separation_process().kill()
    check_success(service, receiver, separating, long_song)
    assert service.stack.services["processor"].running


def test_processor_is_stopped(
    service: Service, separating: str, receiver: WebhookReceiver, long_song: Recording
) -> None:
    """A shutdown does not count as an attempt, whether the grace period was long enough or not."""
    service.stop("processor")
    service.start("processor")
    check_success(service, receiver, separating, long_song)
    (separated,) = (event for event in service.log("processor") if is_about(event, "separated", separating))
    assert separated["attempt"] == 1


def is_about(event: dict[str, Any], name: str, task_uuid: str) -> bool:
    return (event["event"], event.get("task_uuid")) == (name, task_uuid)


def test_uploader_is_killed_before_the_webhook(
    service: Service, source: SourceServer, receiver: WebhookReceiver, short_song: Recording
) -> None:
    source.serve_bytes("/song", short_song.file)
    receiver.stop()
    address = urlsplit(receiver.url)
    # A socket that accepts nothing keeps the webhook waiting. If it were refused, the kill could fall between the retry
    # message and the offset, and the webhook would arrive twice.
    with socket.create_server((address.hostname or "", address.port or 0)):
        task_uuid = service.post(source.url("/song"), receiver.url)
        service.watcher.wait_for_state(task_uuid, TaskState.NOTIFYING)
        service.kill("uploader")
    receiver.start()
    service.start("uploader")
    check_success(service, receiver, task_uuid, short_song)


def test_uploader_is_killed_before_the_response_of_the_receiver(
    service: Service, source: SourceServer, receiver: WebhookReceiver, short_song: Recording
) -> None:
    """The delivery is uncertain, so that the same webhook is sent again under the same id."""
    source.serve_bytes("/song", short_song.file)
    receiver.answer(lambda exchange: exchange.wait_for_the_end(), lambda exchange: exchange.send(OK))
    task_uuid = service.post(source.url("/song"), receiver.url)
    receiver.wait_for(1, PATIENCE)
    service.kill("uploader")
    service.start("uploader")
    first, second = receiver.wait_for(2, PATIENCE)
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert [stem["sha256"] for stem in first.json["stems"]] == [stem["sha256"] for stem in second.json["stems"]]
    check_stems(second.json, short_song)
    assert service.watcher.outcomes(task_uuid) == [TaskState.SUCCESS]


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
