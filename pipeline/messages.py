"""The contract between the services: one model per message type, JSON on the wire, claim checks for audio.

Readers ignore unknown fields, so that a newer writer can run beside an older reader.
"""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError

from pipeline.errors import ErrorCode, ErrorKind, PermanentError, PipelineError
from pipeline.model_choice import ModelChoice
from pipeline.stem_name import StemName
from pipeline.transport.protocol import Message

#: From the lowest to the highest.
PRIORITIES = range(1, 6)
DEFAULT_PRIORITY = 3


class OutputFormat(StrEnum):
    """File formats of the finished stems; the value is the file extension."""

    WAV = "wav"
    FLAC = "flac"


class TaskState(StrEnum):
    """The life of a task, in order; the last three are terminal."""

    QUEUED = "queued"
    DOWNLOADING = "downloading"
    SEPARATING = "separating"
    UPLOADING = "uploading"
    NOTIFYING = "notifying"
    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"


class WireModel(BaseModel):
    """Base of everything that is sent or stored: immutable, tolerant of unknown fields."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class TaskMessage(WireModel):
    """Base of the message types: each is about one task."""

    task_uuid: UUID


#: Name of a repeat that an operator requested; becomes part of object keys and of the webhook's id.
RunName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{0,64}$")]


class SeparationTask(TaskMessage):
    """An accepted job, as the API queues it."""

    audio: str
    hook_url: str
    model: ModelChoice | None = None
    """None: the MODEL_NAME of the processor."""
    stems: tuple[StemName, ...] | None = None
    output_format: OutputFormat = OutputFormat.WAV
    priority: int = Field(default=DEFAULT_PRIORITY, ge=min(PRIORITIES), le=max(PRIORITIES))
    metadata: dict[str, JsonValue] | None = None
    submitted_at: float = Field(default_factory=time.time)
    separations: int = 1
    """Number of this separation: 2 after the stems of the first were lost on their way to the uploader."""
    left_behind: tuple[str, ...] = ()
    """Keys of the first separation's stems that may remain in the hand-off."""
    run: RunName = ""
    """Empty, or the name of a repeat that an operator requested, which has its own outcome and webhook id."""


class StemFile(WireModel):
    """A separated stem in the hand-off store: a reference and a hash, never the audio itself.

    The file is a float32 WAV (RF64), so that no sample is rounded or clipped before the uploader encodes it.
    """

    name: StemName
    key: str
    sha256: str
    bytes: int
    duration: float
    """Length in s."""
    sample_rate: int
    """Frames per second, Hz."""
    channels: int
    peak: float
    """Largest absolute sample value; 1.0 is full scale."""


class Failure(WireModel):
    """The reason of a failure, as the client sees it."""

    code: ErrorCode
    kind: ErrorKind
    message: str
    retryable: bool

    @classmethod
    def from_error(cls, error: PipelineError) -> Failure:
        """Return the description of ``error``."""
        return cls(code=error.code, kind=error.kind, message=error.message, retryable=error.retryable)


class SeparationResult(TaskMessage):
    """The processor's message to the uploader: the stems, or the reason of the failure."""

    task: SeparationTask
    status: Literal["success", "failed"]
    stems: tuple[StemFile, ...] = ()
    model: str | None = None
    """Name of the model, or ``str`` of an ensemble, with presets expanded."""
    device: str | None = None
    timings: dict[str, float] = Field(default_factory=dict)
    """Duration of each stage in s."""
    degraded: tuple[str, ...] = ()
    error: Failure | None = None
    finished_at: float = Field(default_factory=time.time)

    @classmethod
    def failed(cls, task: SeparationTask, error: PipelineError) -> SeparationResult:
        """Return the terminal ``failed`` result of ``task``."""
        return cls(task_uuid=task.task_uuid, task=task, status="failed", error=Failure.from_error(error))


class TaskEvent(TaskMessage):
    """A progress event of a task. Events may be lost; outcomes are sent in ``SeparationResult``."""

    status: TaskState
    progress: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the current stage that is done, 0 to 1."""
    bytes_per_second: float | None = None
    """Rate of the download; None in the other stages."""
    seconds_left: float | None = None
    """Estimated time until the end of the download; None if unknown."""
    message: str | None = None
    at: float = Field(default_factory=time.time)


TaskMessageT = TypeVar("TaskMessageT", bound=TaskMessage)


def to_message(topic: str, body: TaskMessage) -> Message:
    """Encode ``body`` as JSON, keyed by the task, so that all messages of a task stay in order."""
    return Message(topic, str(body.task_uuid), body.model_dump_json().encode())


def from_message(model: type[TaskMessageT], message: Message) -> TaskMessageT:
    """Decode the body of ``message``. Raises PermanentError (code ``message_invalid``) if it is not a ``model``."""
    try:
        return model.model_validate_json(message.value)
    except ValidationError as error:
        where = "; ".join(".".join(map(str, item["loc"])) or "body" for item in error.errors(include_input=False))
        raise PermanentError(
            f"the message is not a valid {model.__name__}: {where}", code=ErrorCode.MESSAGE_INVALID
        ) from None
