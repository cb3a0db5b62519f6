"""What the uploader does with a result: decide the task's outcome, tell it, tidy up.

    outcome decided before? ──no──▶ encode and stage the stems, build the body ──▶ decide: the first one stays
              │                                                                        │
              └──yes─────────────────────────────▶ place its stems, call the webhook ◀─┘ ──▶ tidy up ──▶ settle

Wherever the power goes, the result comes again and begins at the left, with nothing told or with the outcome decided.
"""

from __future__ import annotations

import time

from pipeline.consuming.consumer import JobContext, Outcome
from pipeline.consuming.retry_headers import dead_letter
from pipeline.errors import ErrorCode, ErrorKind, PermanentError, PipelineError
from pipeline.messages import Failure, SeparationResult, SeparationTask, TaskState, to_message
from pipeline.progress import EventReporter
from pipeline.service.logs import get_logger
from pipeline.transport.protocol import Message
from uploader.encode import common_gain, gain_note
from uploader.outcome_store import OutcomeRecord, OutcomeStore
from uploader.publish import FinishedStem, StemPublisher
from uploader.webhook import WebhookSender
from uploader.webhook_payload import failed_body, success_body

log = get_logger(__name__)

#: How often a song is separated whose stems are lost on their way, the first time included.
MAX_SEPARATIONS = 2

_UNEXPLAINED = Failure(code=ErrorCode.INTERNAL, kind=ErrorKind.PERMANENT, message="the task failed", retryable=False)


class Uploader:
    """The worker behind the uploader's consumer loop. See ``pipeline.consuming.consumer.Worker``.

    Keeps nothing of a job, so any number of threads and processes may work on the same one, and repeat it.
    """

    def __init__(
        self,
        publisher: StemPublisher,
        records: OutcomeStore,
        webhook: WebhookSender,
        reporter: EventReporter,
        *,
        task_topic: str,
        result_topic: str,
        dead_letter_topic: str,
    ) -> None:
        self._publisher = publisher
        self._records = records
        self._webhook = webhook
        self._reporter = reporter
        self._task_topic = task_topic
        self._result_topic = result_topic
        self._dead_letter_topic = dead_letter_topic

    def handle(self, result: SeparationResult, context: JobContext) -> Outcome:
        """Tell the task's outcome, which this result decides if it is the first. Raises whatever the webhook raises.

        A result whose stems were lost decides nothing: the task is separated again, once.
        """
        record = self._records.find(result) or self._decided(result, context)
        if record is None:
            return self._resubmitted(result)
        self._publisher.place(record.stems)
        self._reporter.report(result.task_uuid, TaskState.NOTIFYING)
        body = record.body.encode("ascii")
        self._webhook.deliver(result.task.hook_url, webhook_id(result.task), body, context.cancel)
        return self._ended(result, record, end=record.state.value)

    def on_failure(self, result: SeparationResult, error: PipelineError) -> Outcome:
        """The outcome of a result that the client could not be told of. Raises InfrastructureError.

        If only the webhook failed, the result becomes a dead letter and can be replayed: its outcome is decided. If it
        never came to that, or the result took its uploader down, the client is still to be told, so a ``failed``
        result takes its place, which leads to the outcome that was decided if there is one.
        """
        poison = error.kind is ErrorKind.POISON
        letters = () if poison else (self._dead_letter(result, error),)
        if result.status == "success" and (poison or self._known(result) is None):
            return Outcome((self._failed_instead(result, error), *letters), end="replaced")
        return self._ended(result, self._last_word(result, error), *letters, end="untold")

    def _decided(self, result: SeparationResult, context: JobContext) -> OutcomeRecord | None:
        """The task's outcome; None if the stems were lost for the first time."""
        try:
            record = self._proposed(result, context)
        except PermanentError as error:
            if error.code is ErrorCode.HANDOFF_MISSING:
                # Another uploader may have decided meanwhile, and tidied up.
                known = self._records.find(result)
                if known is not None or result.task.separations < MAX_SEPARATIONS:
                    return known
            log.error("upload_failed", error=error.message, code=error.code)
            record = _failed(result, Failure.from_error(error))
        context.cancel.raise_if_set()
        record = self._records.decide(result, record)
        log.info("outcome_decided", state=record.state)
        return record

    def _proposed(self, result: SeparationResult, context: JobContext) -> OutcomeRecord:
        if result.status == "failed":
            return _failed(result, result.error or _UNEXPLAINED)
        if not result.stems:
            raise PermanentError("the separation gave no stems", code=ErrorCode.STEM_MISSING)
        started = time.monotonic()
        self._reporter.report(result.task_uuid, TaskState.UPLOADING)
        self._publisher.require_complete(result)
        gain = common_gain(stem.peak for stem in result.stems)
        stems = self._staged(result, gain, context)
        timings = result.timings | {"upload": round(time.monotonic() - started, 3)}
        degraded = result.degraded if gain == 1.0 else (*result.degraded, gain_note(gain))
        told = result.model_copy(update={"timings": timings, "degraded": degraded})
        body = success_body(told, [stem.told for stem in stems], at=time.time())
        return OutcomeRecord(
            state=TaskState.SUCCESS, body=body.decode("ascii"), stems=tuple(stem.staged for stem in stems)
        )

    def _staged(self, result: SeparationResult, gain: float, context: JobContext) -> list[FinishedStem]:
        """The stems in the store; what an earlier try of a held job has put there is not put there again."""
        stems: list[FinishedStem] = []
        for stem in result.stems:
            context.cancel.raise_if_set()
            finished = context.scratch.get(stem.name)
            if not isinstance(finished, FinishedStem):
                finished = context.scratch[stem.name] = self._publisher.stage(result, stem, gain)
            stems.append(finished)
            self._reporter.progress(result.task_uuid, TaskState.UPLOADING, len(stems) / len(result.stems))
        return stems

    def _resubmitted(self, result: SeparationResult) -> Outcome:
        """The stems that are left stay until the end: the second separation's may have the same keys, and be there."""
        separations = result.task.separations + 1
        left_behind = tuple(stem.key for stem in result.stems)
        task = result.task.model_copy(update={"separations": separations, "left_behind": left_behind})
        log.warning("task_resubmitted", separations=separations)
        self._reporter.report(result.task_uuid, TaskState.QUEUED, message="a stem was lost: separated again")
        return Outcome((to_message(self._task_topic, task),), end="resubmitted")

    def _ended(self, result: SeparationResult, record: OutcomeRecord, *letters: Message, end: str) -> Outcome:
        """The terminal event is settled with the job, since it must not be lost.

        It is tidied up before that: no stem is needed once the outcome is decided, however often the result comes
        again, and nobody would come back for what an uploader that died after settling had left.
        """
        event = self._reporter.event(result.task_uuid, record.state, 1.0, record.message)
        self._publisher.discard(result, record.stems)
        return Outcome((event, *letters), end)

    def _known(self, result: SeparationResult) -> OutcomeRecord | None:
        try:
            return self._records.find(result)
        except PermanentError:
            return None  # damaged: ``handle`` has failed on it, and says so

    def _last_word(self, result: SeparationResult, error: PipelineError) -> OutcomeRecord:
        """The outcome of a task that will not be tried any more: decided here if it never was."""
        failed = _failed(result, result.error or Failure.from_error(error))
        try:
            return self._records.decide(result, failed)
        except PermanentError:
            return failed

    def _failed_instead(self, result: SeparationResult, error: PipelineError) -> Message:
        """It keeps the stems, which are tidied up with it."""
        failed = result.model_copy(update={"status": "failed", "error": Failure.from_error(error)})
        return to_message(self._result_topic, failed)

    def _dead_letter(self, result: SeparationResult, error: PipelineError) -> Message:
        return dead_letter(self._dead_letter_topic, to_message(self._result_topic, result), error)


def webhook_id(task: SeparationTask) -> str:
    """The same for every try of a task's one outcome, so that the receiver can drop repeats; no ``.`` in it."""
    return "_".join(filter(None, ("msg", task.task_uuid.hex, task.run)))


def _failed(result: SeparationResult, failure: Failure) -> OutcomeRecord:
    body = failed_body(result, failure, at=time.time())
    return OutcomeRecord(state=TaskState.FAILED, body=body.decode("ascii"), message=failure.message)
