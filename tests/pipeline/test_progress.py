"""Progress events: throttling, rates, bounds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from pipeline.messages import TaskEvent, TaskState, from_message
from pipeline.progress import PROGRESS_INTERVAL, EventReporter, TransferRate
from pipeline.transport.embedded.transport import EmbeddedTransport
from pipeline.transport.protocol import Topic

TOPIC = "events"
TASK = UUID("6f1c3e0a-8a55-4c43-a8f0-0a4a3e3f0d11")


class Clock:
    """A clock that only the test advances."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def transport(tmp_path: Path) -> Iterator[EmbeddedTransport]:
    transport = EmbeddedTransport(tmp_path / "broker.sqlite")
    transport.ensure_topics([Topic(TOPIC, None, reports=True)])
    yield transport
    transport.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reporter(transport: EmbeddedTransport, clock: Clock) -> EventReporter:
    return EventReporter(transport, TOPIC, clock)


def events(transport: EmbeddedTransport) -> list[TaskEvent]:
    """Return all events so far."""
    subscription = transport.subscribe([TOPIC], "tests")
    seen = []
    while (delivery := subscription.receive(0.0)) is not None:
        assert delivery.message.key == str(from_message(TaskEvent, delivery.message).task_uuid)
        seen.append(from_message(TaskEvent, delivery.message))
        subscription.settle(delivery)
    subscription.close()
    return seen


def test_report_reaches_the_topic(transport: EmbeddedTransport, reporter: EventReporter) -> None:
    reporter.report(TASK, TaskState.UPLOADING, 0.25, "a quarter")
    (event,) = events(transport)
    assert (event.task_uuid, event.status, event.progress, event.message) == (
        TASK,
        TaskState.UPLOADING,
        0.25,
        "a quarter",
    )


def test_progress_is_sent_at_most_once_per_task_and_interval(
    transport: EmbeddedTransport, reporter: EventReporter, clock: Clock
) -> None:
    other = uuid4()
    for step in range(10):
        reporter.progress(TASK, TaskState.SEPARATING, step / 10)
        reporter.progress(other, TaskState.SEPARATING, step / 10)
    clock.now += PROGRESS_INTERVAL
    reporter.progress(TASK, TaskState.SEPARATING, 0.9)
    sent = [(event.task_uuid, event.progress) for event in events(transport)]
    assert sent == [(TASK, 0.0), (other, 0.0), (TASK, 0.9)]


def test_progress_carries_the_rate(transport: EmbeddedTransport, reporter: EventReporter) -> None:
    reporter.progress(TASK, TaskState.DOWNLOADING, 0.5, TransferRate(2e6, 3.5))
    reporter.report(TASK, TaskState.SEPARATING)
    sent = [(event.bytes_per_second, event.seconds_left) for event in events(transport)]
    assert sent == [(2e6, 3.5), (None, None)]


def test_changes_of_state_are_never_throttled(transport: EmbeddedTransport, reporter: EventReporter) -> None:
    reporter.progress(TASK, TaskState.SEPARATING, 0.5)
    reporter.report(TASK, TaskState.UPLOADING)
    assert [event.status for event in events(transport)] == [TaskState.SEPARATING, TaskState.UPLOADING]


@pytest.mark.parametrize(("fraction", "sent"), [(-0.1, 0.0), (1.0000001, 1.0)])
def test_progress_is_clamped(
    transport: EmbeddedTransport, reporter: EventReporter, fraction: float, sent: float
) -> None:
    reporter.progress(TASK, TaskState.SEPARATING, fraction)
    assert [event.progress for event in events(transport)] == [sent]


def test_building_an_event_does_not_send_it(transport: EmbeddedTransport, reporter: EventReporter) -> None:
    message = reporter.event(TASK, TaskState.SUCCESS)
    assert events(transport) == []
    transport.publish(message)
    assert [event.status for event in events(transport)] == [TaskState.SUCCESS]
