"""Progress events of tasks. Events may be lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from pipeline.messages import ReadState, TaskEvent, TaskState, to_message
from pipeline.transport.protocol import Message, Transport

#: Minimum time between two progress events of one task, s.
PROGRESS_INTERVAL = 0.5


@dataclass(frozen=True, slots=True)
class TransferRate:
    """The speed of a transfer; None where it is unknown."""

    bytes_per_second: float | None = None
    seconds_left: float | None = None


UNKNOWN_RATE = TransferRate()


class EventReporter:
    """Sends ``TaskEvent``s to one topic, keyed by the task, so that the events of a task stay in order. Thread-safe."""

    def __init__(self, transport: Transport, topic: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._transport = transport
        self._topic = topic
        self._clock = clock
        self._lock = threading.Lock()
        self._sent_at: dict[UUID, float] = {}

    def report(self, task_uuid: UUID, state: TaskState, progress: float = 0.0, message: str | None = None) -> None:
        """Send that the task is in ``state``, of which the share ``progress`` (0 to 1) is done. Never raises."""
        self._transport.emit(self.event(task_uuid, state, progress, message))

    def progress(self, task_uuid: UUID, state: TaskState, fraction: float, rate: TransferRate = UNKNOWN_RATE) -> None:
        """Do the same as ``report``, but at most once per task and interval; drop the events in between."""
        now = self._clock()
        with self._lock:
            # Older entries are no longer needed, so the table never outgrows the tasks of one interval.
            self._sent_at = {task: at for task, at in self._sent_at.items() if now - at < PROGRESS_INTERVAL}
            if task_uuid in self._sent_at:
                return
            self._sent_at[task_uuid] = now
        self._transport.emit(self.event(task_uuid, state, fraction, rate=rate))

    def event(
        self,
        task_uuid: UUID,
        state: ReadState,
        progress: float = 0.0,
        message: str | None = None,
        rate: TransferRate = UNKNOWN_RATE,
    ) -> Message:
        """Return the event as a message, to be settled with an outcome: a terminal state must not be lost."""
        event = TaskEvent(
            task_uuid=task_uuid,
            status=state,
            progress=min(max(progress, 0.0), 1.0),  # rounding errors may exceed the bounds
            bytes_per_second=rate.bytes_per_second,
            seconds_left=rate.seconds_left,
            message=message,
        )
        return to_message(self._topic, event)
