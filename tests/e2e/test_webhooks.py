"""Test the delivery of webhooks: retries under the same id until the receiver accepts."""

from __future__ import annotations

import pytest

from pipeline.messages import TaskState
from tests.e2e.audio import Recording, check_stems
from tests.e2e.service import Service, signed
from tests.e2e.watcher import PATIENCE
from tests.support.source_server import SourceServer
from tests.support.webhook_receiver import Received, WebhookReceiver, status

pytestmark = pytest.mark.slow


@pytest.fixture
def audio(source: SourceServer, short_song: Recording) -> str:
    source.serve_bytes("/song", short_song.file)
    return source.url("/song")


def check_same(webhooks: list[Received]) -> None:
    """Check that all attempts have the same id and body, and valid signatures."""
    assert len({webhook.headers["webhook-id"] for webhook in webhooks}) == 1
    assert len({webhook.body for webhook in webhooks}) == 1
    assert all(map(signed, webhooks))


def test_receiver_that_is_down_at_first(
    service: Service, audio: str, receiver: WebhookReceiver, short_song: Recording
) -> None:
    receiver.stop()
    task_uuid = service.post(audio, receiver.url)
    service.watcher.wait_for_state(task_uuid, TaskState.NOTIFYING)
    receiver.start()
    (webhook,) = receiver.wait_for(1, PATIENCE)
    assert signed(webhook)
    check_stems(webhook.json, short_song)
    assert service.watcher.outcomes(task_uuid) == [TaskState.SUCCESS]
    assert len(receiver.received) == 1


def test_receiver_that_fails_twice(service: Service, audio: str, receiver: WebhookReceiver) -> None:
    receiver.answer(500, 500, 200)
    task_uuid = service.post(audio, receiver.url)
    assert service.watcher.outcomes(task_uuid) == [TaskState.SUCCESS]
    check_same(receiver.wait_for(3, PATIENCE))
    assert len(receiver.received) == 3
    assert task_uuid not in service.watcher.dead_letters


def test_webhook_of_a_failed_job_is_retried(service: Service, source: SourceServer, receiver: WebhookReceiver) -> None:
    receiver.answer(500, 200)
    task_uuid = service.post(source.url("/nothing"), receiver.url)
    assert service.watcher.outcomes(task_uuid) == [TaskState.FAILED]
    check_same(receiver.wait_for(2, PATIENCE))
    assert receiver.received[0].json["error"]["code"] == "source_not_found"


def test_receiver_that_is_gone(service: Service, audio: str, receiver: WebhookReceiver) -> None:
    receiver.answer(410)
    task_uuid = service.post(audio, receiver.url)
    service.watcher.wait_for_dead_letter(task_uuid)
    assert service.watcher.outcomes(task_uuid) == [TaskState.SUCCESS]
    assert len(receiver.received) == 1


def test_redirect_of_a_receiver_is_not_followed(service: Service, audio: str, receiver: WebhookReceiver) -> None:
    with WebhookReceiver() as elsewhere:
        receiver.answer(status(307, Location=elsewhere.url))
        task_uuid = service.post(audio, receiver.url)
        service.watcher.wait_for_dead_letter(task_uuid)
        assert not elsewhere.received
    check_same(receiver.received)
    assert len(receiver.received) == 8
    assert service.watcher.outcomes(task_uuid) == [TaskState.SUCCESS]
