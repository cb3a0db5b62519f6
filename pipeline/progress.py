"""Reports of how a task is getting on, for whoever watches. Reports may be lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from pipeline.messages import TaskEvent, TaskState, to_message
from pipeline.transport.protocol import Message, Transport

#: Shortest time between two progress reports of one task, s.
PROGRESS_INTERVAL = 0.5


@dataclass(frozen=True, slots=True)
class TransferRate:
    """How fast a stage gets on; None where that cannot be told."""

    bytes_per_second: float | None = None
    seconds_left: float | None = None


UNKNOWN_RATE = TransferRate()


class EventReporter:
    """Sends ``TaskEvent``s to one topic, keyed by the task, so that a task's keep their order. Thread-safe."""

    def __init__(self, transport: Transport, topic: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._transport = transport
        self._topic = topic
        self._clock = clock
        self._lock = threading.Lock()
        self._reported: dict[UUID, float] = {}

    def report(self, task_uuid: UUID, state: TaskState, progress: float = 0.0, message: str | None = None) -> None:
        """Tell that the task is in ``state``, of which ``progress`` (0 to 1) is done. Never raises."""
        self._transport.emit(self.event(task_uuid, state, progress, message))

    def progress(self, task_uuid: UUID, state: TaskState, fraction: float, pace: TransferRate = UNKNOWN_RATE) -> None:
        """``report``, but at most once per task and interval; what comes in between is dropped."""
        if self._is_due(task_uuid):
            event = TaskEvent(
                task_uuid=task_uuid,
                status=state,
                progress=_share(fraction),
                bytes_per_second=pace.bytes_per_second,
                seconds_left=pace.seconds_left,
            )
            self._transport.emit(to_message(self._topic, event))

    def event(self, task_uuid: UUID, state: TaskState, progress: float = 0.0, message: str | None = None) -> Message:
        """The report as a message, to be settled with an outcome: a terminal state must not be lost."""
        event = TaskEvent(task_uuid=task_uuid, status=state, progress=_share(progress), message=message)
        return to_message(self._topic, event)

    def _is_due(self, task_uuid: UUID) -> bool:
        now = self._clock()
        with self._lock:
            # Older entries hold nothing back, so the table never outgrows the tasks of one interval.
            self._reported = {task: at for task, at in self._reported.items() if now - at < PROGRESS_INTERVAL}
            if task_uuid in self._reported:
                return False
            self._reported[task_uuid] = now
            return True


def _share(fraction: float) -> float:
    """``fraction`` without its rounding errors."""
    return min(max(fraction, 0.0), 1.0)
