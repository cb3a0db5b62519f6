"""What tests ask of a job's outcome, of the stores, and of what the receiver was told."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import soundfile

from pipeline.cancellation import CancelToken
from pipeline.consuming.consumer import JobContext, Outcome
from pipeline.errors import ErrorCode, ErrorKind, PipelineError
from pipeline.messages import (
    Failure,
    OutputFormat,
    SeparationResult,
    SeparationTask,
    TaskEvent,
    from_message,
)
from pipeline.storage.object_keys import stem_key
from tests.support.webhook_receiver import Received
from tests.uploader.conftest import EVENTS, Bench
from uploader.service import Uploader

Song = dict[str, np.ndarray]


def fresh() -> JobContext:
    """Of a delivery that nothing is known of yet."""
    return JobContext(CancelToken(), attempt=1)


def told(bench: Bench, count: int = 1) -> Any:
    """The body of the last of ``count`` webhooks."""
    return bench.receiver.wait_for(count)[-1].json


def terminal(outcome: Outcome) -> TaskEvent:
    """The event that is settled with the job."""
    return from_message(TaskEvent, next(message for message in outcome.outputs if message.topic == EVENTS))


def finish(uploader: Uploader, result: SeparationResult) -> Outcome:
    """Handle the result."""
    return uploader.handle(result, fresh())


def refused(bench: Bench, result: SeparationResult, context: JobContext | None = None) -> PipelineError:
    """The error on which the result fails."""
    with pytest.raises(PipelineError) as caught:
        bench.uploader.handle(result, context or fresh())
    return caught.value


def failed_result(task: SeparationTask) -> SeparationResult:
    failure = Failure(
        code=ErrorCode.SOURCE_NOT_FOUND, kind=ErrorKind.PERMANENT, message="the source answered 404", retryable=False
    )
    return SeparationResult(task_uuid=task.task_uuid, task=task, status="failed", error=failure)


def is_handed_off(bench: Bench, result: SeparationResult) -> list[bool]:
    return [bench.handoff.stat(stem.key) is not None for stem in result.stems]


def stored(bench: Bench, task_uuid: UUID, name: str, output_format: OutputFormat = OutputFormat.WAV) -> bytes:
    """A finished stem's file."""
    return bench.store.read(stem_key(task_uuid, name, output_format))


def samples_of(file: bytes) -> np.ndarray:
    samples, _ = soundfile.read(io.BytesIO(file), dtype="int16")
    return np.asarray(samples)


def check_told_alike(bench: Bench, webhooks: Iterable[Received]) -> Any:
    """All webhooks carry one body under one id, and the stems are there as it describes them; the body."""
    ((_, body),) = {(webhook.headers["webhook-id"], webhook.body) for webhook in webhooks}
    for webhook in webhooks:
        assert webhook.body == body
    answer = next(iter(webhooks)).json
    for stem in answer.get("stems", ()):
        file = stored(bench, UUID(answer["task_uuid"]), stem["name"])
        assert (hashlib.sha256(file).hexdigest(), len(file)) == (stem["sha256"], stem["bytes"])
    return answer


def local_files(folder: Path) -> set[str]:
    """What lies in a local store."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
