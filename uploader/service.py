"""The uploader's jobs: decide the outcome of a task, deliver it to the client, clean up.

    outcome already decided? ──no──▶ encode and stage the stems, build the body ──▶ decide: the first outcome wins
              │                                                                           │
              └──yes────────────────────▶ publish its stems, call the webhook ◀───────────┘ ──▶ clean up ──▶ settle

An uploader may die at any step. The result is then delivered again and starts at the left: either nothing has been
delivered to the client yet, or the outcome is decided.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

from pipeline.consuming.handler import JobContext, Outcome
from pipeline.consuming.retry_headers import dead_letter
from pipeline.errors import ErrorCode, ErrorKind, PermanentError, PipelineError
from pipeline.messages import Failure, SeparationResult, SeparationTask, TaskState, to_message
from pipeline.progress import EventReporter
from pipeline.service.logs import get_logger
from pipeline.storage.object_keys import handoff_key
from pipeline.transport.protocol import Message
from uploader.encode import common_gain, gain_note, stem_bits
from uploader.outcome_store import OutcomeRecord, OutcomeStore
from uploader.publish import EncodedStem, StemPublisher
from uploader.receiver_share import ReceiverShare
from uploader.webhook import WebhookSender
from uploader.webhook_payload import failed_body, success_body

log = get_logger(__name__)

#: Maximum number of separations of a song whose stems are lost on the way to the uploader, the first one included.
MAX_SEPARATIONS = 2

_UNEXPLAINED = Failure(code=ErrorCode.INTERNAL, kind=ErrorKind.PERMANENT, message="the task failed", retryable=False)


@dataclass(frozen=True, slots=True)
class UploadHandler:
    """The ``JobHandler`` of the uploader, with everything that its jobs share. Thread-safe.

    Any number of threads and processes may work on the same result, and repeat it.
    """

    publisher: StemPublisher
    outcomes: OutcomeStore
    webhook: WebhookSender
    receivers: ReceiverShare
    reporter: EventReporter
    task_topic: str
    result_topic: str
    dead_letter_topic: str

    def begin(self, result: SeparationResult, context: JobContext) -> UploadRun:
        """Start the work on a delivery of ``result``."""
        return UploadRun(self, result, context)

    def on_failure(self, result: SeparationResult, error: PipelineError) -> Outcome:
        """Return the outcome of a result that could not be delivered to the client. Raises InfrastructureError.

        If only the webhook failed, the task's outcome is decided, and the result becomes a dead letter that can be
        replayed. If no outcome was decided, or the result crashed its uploader, the client has yet to be notified: a
        ``failed`` result takes its place, which leads to the decided outcome if there is one.
        """
        poison = error.kind is ErrorKind.POISON
        message = to_message(self.result_topic, result)
        letters = () if poison else (dead_letter(self.dead_letter_topic, message, error),)
        if result.status == "success" and (poison or not self._is_decided(result)):
            # The replacement keeps the stems, so that they are cleaned up with it.
            failed = result.model_copy(update={"status": "failed", "error": Failure.from_error(error)})
            return Outcome((to_message(self.result_topic, failed), *letters), end="replaced")
        record = _failed_record(result, result.error or Failure.from_error(error))
        with suppress(PermanentError):  # the stored record is damaged
            record = self.outcomes.decide(result, record)
        return self.finish(result, record, *letters, end="undelivered")

    def finish(self, result: SeparationResult, record: OutcomeRecord, *letters: Message, end: str) -> Outcome:
        """Clean up and return the outcome with the terminal event, which is settled with the job, so never lost.

        The cleanup comes before settling, because a result is not delivered again once it is settled. No stem is
        needed any more once the outcome is decided, even if the result is delivered again.
        """
        event = self.reporter.event(result.task_uuid, record.state, 1.0, record.message)
        self.publisher.discard(result, record.stems)
        return Outcome((event, *letters), end)

    def _is_decided(self, result: SeparationResult) -> bool:
        try:
            return self.outcomes.find(result) is not None
        except PermanentError:
            return False  # the record is damaged; ``handle`` has failed because of that and reported it


class UploadRun:
    """The ``JobRun`` of one delivery of one result. Keeps the stems that are staged, so that a retry skips them."""

    def __init__(self, handler: UploadHandler, result: SeparationResult, context: JobContext) -> None:
        self._handler = handler
        self._result = result
        self._cancel = context.cancel
        self._staged: list[EncodedStem] = []

    def handle(self) -> Outcome:
        """Deliver the outcome of the task, which this result decides if it is the first.

        Raises the webhook's errors, and DeferredError while its receiver holds all the threads that it may.

        A result whose stems were lost decides nothing: the task is separated again, once.
        """
        handler, result = self._handler, self._result
        record = handler.outcomes.find(result) or self._decide()
        if record is None:
            return self._resubmit()
        url, body = result.task.hook_url, record.body.encode("ascii")
        handler.receivers.require_responsive(url)
        handler.publisher.publish(record.stems)
        handler.reporter.report(result.task_uuid, TaskState.NOTIFYING)
        with handler.receivers.slot(url):
            handler.webhook.deliver(url, webhook_id(result.task), body, self._cancel)
        return handler.finish(result, record, end=str(record.state))

    def close(self) -> None:
        """Do nothing: the run holds no files between its calls."""

    def _decide(self) -> OutcomeRecord | None:
        """Decide the outcome of the task; return None if the stems were lost for the first time."""
        result, outcomes = self._result, self._handler.outcomes
        try:
            if result.status == "failed":
                record = _failed_record(result, result.error or _UNEXPLAINED)
            else:
                record = self._upload()
        except PermanentError as error:
            if error.code is ErrorCode.HANDOFF_MISSING:
                # Another uploader may have decided the outcome and cleaned up meanwhile.
                decided = outcomes.find(result)
                if decided is not None or result.task.separations < MAX_SEPARATIONS:
                    return decided
            log.error("upload_failed", error=error.message, code=error.code)
            record = _failed_record(result, Failure.from_error(error))
        self._cancel.raise_if_set()
        record = outcomes.decide(result, record)
        log.info("outcome_decided", state=record.state)
        return record

    def _upload(self) -> OutcomeRecord:
        """Encode and stage the stems that are not staged yet, and return the outcome to be decided."""
        result, publisher, reporter = self._result, self._handler.publisher, self._handler.reporter
        if not result.stems:
            raise PermanentError("the separation gave no stems", code=ErrorCode.STEM_MISSING)
        started = time.monotonic()
        reporter.report(result.task_uuid, TaskState.UPLOADING)
        publisher.require_complete(result)
        gain = common_gain((stem.peak for stem in result.stems), stem_bits(result))
        for stem in result.stems[len(self._staged) :]:
            self._cancel.raise_if_set()
            self._staged.append(publisher.stage(result, stem, gain))
            reporter.progress(result.task_uuid, TaskState.UPLOADING, len(self._staged) / len(result.stems))
        timings = result.timings | {"upload": round(time.monotonic() - started, 3)}
        degraded = result.degraded if gain == 1.0 else (*result.degraded, gain_note(gain))
        reported = result.model_copy(update={"timings": timings, "degraded": degraded})
        body = success_body(reported, [stem.published for stem in self._staged], at=time.time())
        return OutcomeRecord(
            state=TaskState.SUCCESS, body=body.decode("ascii"), stems=tuple(stem.staged for stem in self._staged)
        )

    def _resubmit(self) -> Outcome:
        """Send the task back to be separated again.

        The remaining stems stay until the end, since the second separation may produce stems with the same keys.
        """
        task = self._result.task
        separations = task.separations + 1
        left_behind = tuple(
            handoff_key(task.task_uuid, task.run, stem.name, stem.sha256) for stem in self._result.stems
        )
        again = task.model_copy(update={"separations": separations, "left_behind": left_behind})
        log.warning("task_resubmitted", separations=separations)
        self._handler.reporter.report(task.task_uuid, TaskState.QUEUED, message="a stem was lost: separated again")
        return Outcome((to_message(self._handler.task_topic, again),), end="resubmitted")


def webhook_id(task: SeparationTask) -> str:
    """Return the id of the task's webhook, without ``.``, the same at every try, so that receivers can drop repeats."""
    return "_".join(filter(None, ("msg", task.task_uuid.hex, task.run)))


def _failed_record(result: SeparationResult, failure: Failure) -> OutcomeRecord:
    body = failed_body(result, failure, at=time.time())
    return OutcomeRecord(state=TaskState.FAILED, body=body.decode("ascii"), message=failure.message)
