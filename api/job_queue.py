"""Hands accepted jobs to the broker."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from api import metrics
from api.client_rate_limit import ClientRateLimit
from api.errors import ApiError, unavailable
from pipeline.errors import ErrorCode, InfrastructureError, PermanentError
from pipeline.messages import SeparationTask, TaskState, to_message
from pipeline.progress import EventReporter
from pipeline.service.logs import get_logger
from pipeline.topics import Topics
from pipeline.transport import Message, Transport

log = get_logger(__name__)

#: Jobs that the broker is asked to take at the same time. The threads are the queue's own, so that nothing else that
#: needs one (``/ready``, files) waits for a broker that hangs.
THREADS = 64
#: Longest wait for one of them, s. A broker that answers frees hundreds in this time; behind one that does not, waiting
#: for others to give up would come on top of the time that a request is given itself.
PATIENCE = 0.2


class JobQueue:
    """The topics of jobs: by priority for what ``fairness`` lets in front, bulk for the rest."""

    def __init__(self, transport: Transport, topics: Topics, fairness: ClientRateLimit, events: EventReporter) -> None:
        self._transport = transport
        self._topics = topics
        self._fairness = fairness
        self._events = events
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="job-queue")
        self._free = asyncio.Semaphore(THREADS)

    async def put(self, task: SeparationTask, client: str) -> str:
        """The topic that has the job, once it is durable there. Raises ApiError 503 or 413.

        It takes as long as the transport gives the broker to answer, and not noticeably longer, however many ask.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                await self._free.acquire()
        except TimeoutError:
            error = InfrastructureError("the broker is slow, others wait already", code=ErrorCode.BROKER_UNAVAILABLE)
            raise _not_taken(error) from None
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._put, task, client)
        finally:
            self._free.release()

    def _put(self, task: SeparationTask, client: str) -> str:
        with self._fairness.place(client) as in_front:
            topic = self._topics.tasks[task.priority] if in_front else self._topics.bulk
            self._publish(topic, task)
        metrics.accepted.labels("priority" if in_front else "bulk").inc()
        self._events.report(task.task_uuid, TaskState.QUEUED)
        return topic

    def _publish(self, topic: str, task: SeparationTask) -> None:
        try:
            self._transport.publish_probed(to_message(topic, task), probe=Message(self._topics.pulse, "pulse", b""))
        except InfrastructureError as error:
            raise _not_taken(error) from error
        except PermanentError as error:
            raise ApiError(413, "The job is too large to be queued", details={"code": error.code}) from error


def _not_taken(error: InfrastructureError) -> ApiError:
    log.warning("job_not_queued", code=error.code, error=error.message)
    return unavailable(
        "The queue has not confirmed the job in time: it was not accepted, try again later",
        details={"code": error.code},
    )
