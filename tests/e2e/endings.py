"""Check the outcome of successful jobs."""

from __future__ import annotations

from pipeline.messages import TaskState
from tests.e2e.audio import Recording, check_stems
from tests.e2e.service import Service, signed
from tests.e2e.watcher import PATIENCE
from tests.support.webhook_receiver import WebhookReceiver


def check_success(service: Service, receiver: WebhookReceiver, task_uuid: str, recording: Recording) -> None:
    """Check that the job succeeded, with one webhook and one outcome."""
    (webhook,) = receiver.wait_for(1, PATIENCE)
    assert signed(webhook)
    assert (webhook.json["task_uuid"], webhook.json["status"]) == (task_uuid, "success")
    check_stems(webhook.json, recording)
    assert service.watcher.outcomes(task_uuid) == [TaskState.SUCCESS]
    assert len(receiver.received) == 1


def check_successes(service: Service, receiver: WebhookReceiver, task_uuids: list[str], recording: Recording) -> None:
    """Check that every job succeeded, and that there are no webhooks of other jobs."""
    webhooks = receiver.wait_for(len(task_uuids), PATIENCE)
    assert all(map(signed, webhooks))
    assert sorted(webhook.json["task_uuid"] for webhook in webhooks) == sorted(task_uuids)
    for webhook in webhooks:
        assert webhook.json["status"] == "success", webhook.json
        check_stems(webhook.json, recording)
    for task_uuid in task_uuids:
        assert set(service.watcher.outcomes(task_uuid)) == {TaskState.SUCCESS}
