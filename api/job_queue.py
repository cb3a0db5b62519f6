"""Publishes accepted jobs."""

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
from pipeline.transport import Transport

log = get_logger(__name__)

#: Concurrent publications. The queue has its own threads, so that a broker that hangs blocks neither ``/ready`` nor
#: the files.
THREADS = 64
#: Longest wait for a free thread, s. A healthy broker frees hundreds in this time. With one that does not answer, this
#: wait adds to the publish timeout of the request.
THREAD_TIMEOUT = 0.2


class JobQueue:
    """Publishes a job to the topic of its priority or, above the client's rate limit, to the bulk topic."""

    def __init__(
        self, transport: Transport, topics: Topics, rate_limit: ClientRateLimit, events: EventReporter
    ) -> None:
        self._transport = transport
        self._topics = topics
        self._rate_limit = rate_limit
        self._events = events
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="job-queue")
        self._free = asyncio.Semaphore(THREADS)

    async def put(self, task: SeparationTask, client: str) -> str:
        """Publish ``task`` and return its topic once it is durable there. Raises ApiError 503 or 413.

        Takes at most the publish timeout of the transport plus ``THREAD_TIMEOUT``, however many requests wait.
        """
        try:
            async with asyncio.timeout(THREAD_TIMEOUT):
                await self._free.acquire()
        except TimeoutError:
            error = InfrastructureError(
                "the broker is slow and all publishing threads are busy", code=ErrorCode.BROKER_UNAVAILABLE
            )
            raise _not_queued(error) from None
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._put, task, client)
        finally:
            self._free.release()

    def _put(self, task: SeparationTask, client: str) -> str:
        with self._rate_limit.reserve(client) as within_limit:
            topic = self._topics.tasks[task.priority] if within_limit else self._topics.bulk
            try:
                self._transport.publish_probed(to_message(topic, task), probe=self._topics.probe)
            except InfrastructureError as error:
                raise _not_queued(error) from error
            except PermanentError as error:
                raise ApiError(413, "The job is too large to be queued", details={"code": error.code}) from error
        metrics.accepted.labels("priority" if within_limit else "bulk").inc()
        self._events.report(task.task_uuid, TaskState.QUEUED)
        return topic


def _not_queued(error: InfrastructureError) -> ApiError:
    log.warning("job_not_queued", code=error.code, error=error.message)
    return unavailable(
        "The queue has not confirmed the job in time: it was not accepted, try again later",
        details={"code": error.code},
    )
