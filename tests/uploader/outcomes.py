"""Helpers for tests that check outcomes, stores and webhooks."""

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
from pipeline.consuming.handler import JobContext, Outcome
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
from uploader.service import UploadHandler

Song = dict[str, np.ndarray]


def new_context() -> JobContext:
    """Return the context of a first delivery."""
    return JobContext(CancelToken(), attempt=1)


def webhook_body(bench: Bench, count: int = 1) -> Any:
    """Wait for ``count`` webhooks, and return the body of the last one."""
    return bench.receiver.wait_for(count)[-1].json


def terminal_event(outcome: Outcome) -> TaskEvent:
    """Return the event that is settled with the job."""
    return from_message(TaskEvent, next(message for message in outcome.outputs if message.topic == EVENTS))


def handle(uploader: UploadHandler, result: SeparationResult) -> Outcome:
    """Handle one delivery of the result."""
    return uploader.begin(result, new_context()).handle()


def failure_of(bench: Bench, result: SeparationResult) -> PipelineError:
    """Return the error with which one delivery of the result fails."""
    with pytest.raises(PipelineError) as caught:
        handle(bench.uploader, result)
    return caught.value


def failed_result(task: SeparationTask) -> SeparationResult:
    failure = Failure(
        code=ErrorCode.SOURCE_NOT_FOUND, kind=ErrorKind.PERMANENT, message="the source answered 404", retryable=False
    )
    return SeparationResult(task_uuid=task.task_uuid, task=task, status="failed", error=failure)


def is_handed_off(bench: Bench, result: SeparationResult) -> list[bool]:
    return [bench.handoff.stat(stem.key) is not None for stem in result.stems]


def published_file(bench: Bench, task_uuid: UUID, name: str, output_format: OutputFormat = OutputFormat.WAV) -> bytes:
    """Return the file of a published stem."""
    return bench.store.read(stem_key(task_uuid, name, output_format))


def samples_of(file: bytes) -> np.ndarray:
    samples, _ = soundfile.read(io.BytesIO(file), dtype="int16")
    return np.asarray(samples)


def check_same_outcome(bench: Bench, webhooks: Iterable[Received]) -> Any:
    """Check that all webhooks have the same id and body, and that the stems match it. Returns the body."""
    ((_, body),) = {(webhook.headers["webhook-id"], webhook.body) for webhook in webhooks}
    for webhook in webhooks:
        assert webhook.body == body
    content = next(iter(webhooks)).json
    for stem in content.get("stems", ()):
        file = published_file(bench, UUID(content["task_uuid"]), stem["name"])
        assert (hashlib.sha256(file).hexdigest(), len(file)) == (stem["sha256"], stem["bytes"])
    return content


def local_files(folder: Path) -> set[str]:
    """Return the paths of the files in a local store, relative to ``folder``."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
