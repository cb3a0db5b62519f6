"""Hands accepted jobs to the broker."""

from __future__ import annotations

from api.errors import ApiError, unavailable
from pipeline.errors import InfrastructureError, PermanentError
from pipeline.events import Reporter
from pipeline.messages import SeparationTask, TaskState, to_message
from pipeline.telemetry import get_logger
from pipeline.transport import Transport

log = get_logger(__name__)


class JobQueue:
    """The topic of jobs. Blocking: call it from a thread."""

    def __init__(self, transport: Transport, topic: str, events: Reporter) -> None:
        self._transport = transport
        self._topic = topic
        self._events = events

    def put(self, task: SeparationTask) -> None:
        """Returns when the job is durable. Raises ApiError 503 or 413; nothing was accepted then."""
        try:
            self._transport.publish(to_message(self._topic, task))
        except InfrastructureError as error:
            log.warning("job_not_queued", code=error.code, error=error.message)
            raise unavailable(
                "The queue does not take jobs now; nothing was accepted, try again later", details={"code": error.code}
            ) from error
        except PermanentError as error:
            raise ApiError(413, "The job is too large to be queued", details={"code": error.code}) from error
        self._events.report(task.task_uuid, TaskState.QUEUED)
