"""Reports of how a task is getting on, for whoever watches. Reports may be lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from uuid import UUID

from pipeline.messages import TaskEvent, TaskState, to_message
from pipeline.transport.protocol import Message, Transport

#: Shortest time between two progress reports of one task, s.
PROGRESS_INTERVAL = 0.5


class Reporter:
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

    def progress(self, task_uuid: UUID, state: TaskState, fraction: float) -> None:
        """``report``, but at most once per task and interval; what comes in between is dropped."""
        if self._is_due(task_uuid):
            self.report(task_uuid, state, fraction)

    def event(self, task_uuid: UUID, state: TaskState, progress: float = 0.0, message: str | None = None) -> Message:
        """The report as a message, to be settled with an outcome: a terminal state must not be lost."""
        share = min(max(progress, 0.0), 1.0)
        event = TaskEvent(task_uuid=task_uuid, status=state, progress=share, message=message)
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
