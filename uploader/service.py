"""What the uploader does with a result: publish the stems, call the webhook, tidy up."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from uuid import UUID

from pipeline.cancel import CancelToken
from pipeline.consumer import JobContext, Outcome, dead_letter
from pipeline.errors import CancelledError, ErrorCode, ErrorKind, PermanentError, PipelineError
from pipeline.events import Reporter
from pipeline.messages import Failure, SeparationResult, TaskState, to_message
from pipeline.telemetry import get_logger
from pipeline.transport.protocol import Message
from uploader.encode import common_gain, gain_note
from uploader.payload import PublishedStem, failed_body, success_body
from uploader.publish import StemPublisher
from uploader.webhook import WebhookSender

log = get_logger(__name__)

#: Jobs whose uploads are remembered; more are open only after deliveries were lost.
_REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class Notice:
    """What the client is told: the end of the task, and the same bytes at every try."""

    state: TaskState
    body: bytes
    message: str | None = None


@dataclass(slots=True)
class _Job:
    """What has been done of one result, so that trying the webhook again uploads nothing again."""

    result: SeparationResult
    stems: dict[str, PublishedStem] = field(default_factory=dict)
    notice: Notice | None = None


class Uploader:
    """The worker behind the uploader's consumer loop. See ``pipeline.consumer.Worker``.

    Used by one thread. Everything it does may be repeated: objects are overwritten with themselves, and the webhook's
    id stays the same.
    """

    def __init__(
        self,
        publisher: StemPublisher,
        webhook: WebhookSender,
        reporter: Reporter,
        *,
        result_topic: str,
        dead_letter_topic: str,
    ) -> None:
        self._publisher = publisher
        self._webhook = webhook
        self._reporter = reporter
        self._result_topic = result_topic
        self._dead_letter_topic = dead_letter_topic
        self._jobs: OrderedDict[UUID, _Job] = OrderedDict()

    def handle(self, result: SeparationResult, context: JobContext) -> Outcome:
        """Publish the stems if there are any and call the webhook. Raises whatever the webhook raises."""
        job = self._recall(result)
        try:
            if job.notice is None:
                job.notice = self._prepare(job, context.cancel)
            self._reporter.report(result.task_uuid, TaskState.NOTIFYING)
            self._webhook.deliver(result.hook_url, webhook_id(result.task_uuid), job.notice.body, context.cancel)
        except CancelledError:
            self._jobs.pop(result.task_uuid, None)
            raise
        return self._end(job, job.notice)

    def on_failure(self, result: SeparationResult, error: PipelineError) -> Outcome:
        """The outcome of a result that the client could not be told of.

        If only the webhook failed, the result becomes a dead letter and can be replayed: the stems are stored. If it
        never came to that, the client is still to be told, so a ``failed`` result takes its place.
        """
        job = self._recall(result)
        letters = () if error.kind is ErrorKind.POISON else (self._dead_letter(result, error),)
        if job.notice is not None:
            return self._end(job, job.notice, *letters)
        self._jobs.pop(result.task_uuid)
        if result.status == "failed":
            event = self._reporter.event(result.task_uuid, TaskState.FAILED, message=error.message)
            return Outcome((event, *letters))
        failed = result.model_copy(update={"status": "failed", "stems": (), "error": Failure.from_error(error)})
        return Outcome((to_message(self._result_topic, failed), *letters))

    def _prepare(self, job: _Job, cancel: CancelToken) -> Notice:
        result = job.result
        if result.status == "failed":
            return _failed(result, result.error or _UNEXPLAINED)
        try:
            return self._publish(job, cancel)
        except PermanentError as error:
            log.error("upload_failed", error=error.message, code=error.code)
            return _failed(result, Failure.from_error(error))

    def _publish(self, job: _Job, cancel: CancelToken) -> Notice:
        result = job.result
        if not result.stems:
            raise PermanentError("the separation gave no stems", code=ErrorCode.STEM_MISSING)
        started = time.monotonic()
        self._reporter.report(result.task_uuid, TaskState.UPLOADING)
        gain = common_gain(stem.peak for stem in result.stems)
        for stem in result.stems:
            cancel.raise_if_set()
            if stem.name not in job.stems:
                job.stems[stem.name] = self._publisher.publish(result.task_uuid, stem, result.output_format, gain)
            share = len(job.stems) / len(result.stems)
            self._reporter.progress(result.task_uuid, TaskState.UPLOADING, share)
        timings = result.timings | {"upload": round(time.monotonic() - started, 3)}
        degraded = result.degraded if gain == 1.0 else (*result.degraded, gain_note(gain))
        told = result.model_copy(update={"timings": timings, "degraded": degraded})
        return Notice(TaskState.SUCCESS, success_body(told, list(job.stems.values()), at=time.time()))

    def _end(self, job: _Job, notice: Notice, *letters: Message) -> Outcome:
        """The terminal event is settled with the job, since it must not be lost; then the hand-off is tidied up."""
        result = job.result
        self._jobs.pop(result.task_uuid, None)
        event = self._reporter.event(result.task_uuid, notice.state, 1.0, notice.message)
        return Outcome((event, *letters), lambda: self._publisher.discard_handoff(result))

    def _recall(self, result: SeparationResult) -> _Job:
        """What was done of this very result; of another one for the same task, nothing counts."""
        job = self._jobs.get(result.task_uuid)
        if job is None or job.result != result:
            job = self._jobs[result.task_uuid] = _Job(result)
        while len(self._jobs) > _REMEMBERED:
            self._jobs.popitem(last=False)
        return job

    def _dead_letter(self, result: SeparationResult, error: PipelineError) -> Message:
        return dead_letter(self._dead_letter_topic, to_message(self._result_topic, result), error)


def webhook_id(task_uuid: UUID) -> str:
    """The same for every try of a task's one outcome, so that the receiver can drop repeats; no ``.`` in it."""
    return f"msg_{task_uuid.hex}"


_UNEXPLAINED = Failure(code=ErrorCode.INTERNAL, kind=ErrorKind.PERMANENT, message="the task failed", retryable=False)


def _failed(result: SeparationResult, failure: Failure) -> Notice:
    return Notice(TaskState.FAILED, failed_body(result, failure, at=time.time()), failure.message)
