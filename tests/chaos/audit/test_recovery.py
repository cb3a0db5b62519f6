"""Tests of the recovery time: from the end of a fault to the next progress of the affected part."""

from __future__ import annotations

import json

from tests.chaos.audit.ledger import Entry, FaultBegan, FaultEnded, ResponseReceived, StepLogged, WebhookReceived
from tests.chaos.audit.recovery import Recovery, overall, recoveries


def fault(number: int, kind: str, target: str, end: float) -> list[Entry]:
    return [FaultBegan(at=end - 1, number=number, kind=kind, target=target), FaultEnded(at=end, number=number)]


def settled(at: float, service: str) -> StepLogged:
    return StepLogged(at=at, service=service, task_uuid="t", step="job_settled")


def webhook(at: float, task: str, status: int = 200) -> WebhookReceived:
    body = json.dumps({"task_uuid": task})
    return WebhookReceived(at=at, task_uuid=task, webhook_id=task, body=body, status=status, signed=True)


def test_worker_recovers_with_its_own_next_job() -> None:
    entries = [
        *fault(1, "kill -9", "processor-1", 10),
        *fault(2, "kill -9", "child-2", 20),
        *(settled(11, "processor-2"), settled(14, "processor-1"), settled(26, "processor-2"), webhook(10.5, "t")),
        StepLogged(at=10.1, service="processor-1", task_uuid="t", step="separated"),
    ]
    assert recoveries(entries) == [
        Recovery("kill -9", "child", faults=1, median=6, worst=6, unfinished=0),
        Recovery("kill -9", "processor", faults=1, median=4, worst=4, unfinished=0),
    ]


def test_shared_part_recovers_with_the_next_delivered_webhook() -> None:
    entries = [
        *fault(1, "drop", "broker-1", 10),
        *fault(2, "drop", "broker-3", 20),
        *(webhook(9, "t1"), webhook(10.5, "t1"), webhook(11, "t2", status=503), webhook(13, "t2"), webhook(29, "t3")),
    ]
    assert recoveries(entries) == [Recovery("drop", "broker", faults=2, median=6, worst=9, unfinished=0)]


def test_api_recovers_with_the_next_202() -> None:
    entries = [
        *fault(1, "pause", "api", 10),
        ResponseReceived(at=11, post="p1", status=503, seconds=1),
        ResponseReceived(at=12.5, post="p2", status=202, task_uuid="t", seconds=1),
    ]
    assert recoveries(entries) == [Recovery("pause", "api", faults=1, median=2.5, worst=2.5, unfinished=0)]


def test_fault_without_later_progress() -> None:
    entries = [*fault(1, "reset", "s3", 10), webhook(9, "t")]
    assert recoveries(entries) == [Recovery("reset", "s3", faults=1, median=None, worst=None, unfinished=1)]


def test_unfinished_fault_does_not_count() -> None:
    assert recoveries([FaultBegan(number=1, kind="drop", target="s3")]) == []


def test_overall() -> None:
    entries = [*fault(1, "drop", "s3", 10), *fault(2, "reset", "source", 20), webhook(12, "t1"), webhook(25, "t2")]
    assert overall(entries) == Recovery("all", "", faults=2, median=3.5, worst=5, unfinished=0)
