"""The contract between the services: one model per message type, JSON on the wire, claim checks for audio.

Readers ignore fields that they do not know, so that a newer writer can run beside an older reader.
"""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError

from pipeline.errors import ErrorCode, ErrorKind, PermanentError, PipelineError
from pipeline.model_choice import ModelChoice
from pipeline.transport.protocol import Message

#: Becomes part of object keys and file names, so nothing but harmless characters passes; lower case.
StemName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]

#: From what can wait to what is urgent.
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
    """Base of everything that travels: immutable, tolerant of unknown fields."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class TaskMessage(WireModel):
    """Base of the message types: each is about one task."""

    task_uuid: UUID


#: Names a repeat that an operator asked for; becomes part of object keys and of the webhook's id.
RunName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{0,64}$")]


class SeparationTask(TaskMessage):
    """What the API queues: one accepted job."""

    audio: str
    hook_url: str
    model: ModelChoice | None = None
    """None: the processor's MODEL_NAME."""
    stems: tuple[StemName, ...] | None = None
    output_format: OutputFormat = OutputFormat.WAV
    priority: int = Field(default=DEFAULT_PRIORITY, ge=min(PRIORITIES), le=max(PRIORITIES))
    metadata: dict[str, JsonValue] | None = None
    submitted_at: float = Field(default_factory=time.time)
    separations: int = 1
    """Which separation this is: 2 when the stems of the first were lost on their way to the uploader."""
    left_behind: tuple[str, ...] = ()
    """Keys of what is left of the first one's stems in the hand-off."""
    run: RunName = ""
    """Empty, or the name of a repeat that an operator asked for: it has an outcome, and a webhook's id, of its own."""


class StemFile(WireModel):
    """A separated stem in the hand-off store: a reference and a hash, never the audio itself.

    The file is a float32 WAV (RF64), so that nothing has been rounded or clipped before the uploader encodes it.
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
    """Why a task failed, fit to be shown to the client."""

    code: ErrorCode
    kind: ErrorKind
    message: str
    retryable: bool

    @classmethod
    def from_error(cls, error: PipelineError) -> Failure:
        return cls(code=error.code, kind=error.kind, message=error.message, retryable=error.retryable)


class SeparationResult(TaskMessage):
    """What the processor hands to the uploader: the stems, or why there are none."""

    task: SeparationTask
    status: Literal["success", "failed"]
    stems: tuple[StemFile, ...] = ()
    model: str | None = None
    """The name of the model; of an ensemble, ``str`` of it, presets written out."""
    device: str | None = None
    timings: dict[str, float] = Field(default_factory=dict)
    """Duration of each stage in s."""
    degraded: tuple[str, ...] = ()
    error: Failure | None = None
    finished_at: float = Field(default_factory=time.time)

    @classmethod
    def failed(cls, task: SeparationTask, error: PipelineError) -> SeparationResult:
        """The terminal ``failed`` outcome of ``task``."""
        return cls(task_uuid=task.task_uuid, task=task, status="failed", error=Failure.from_error(error))


class TaskEvent(TaskMessage):
    """A report of how a task is getting on. Reports may be lost; outcomes travel in ``SeparationResult``."""

    status: TaskState
    progress: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the present stage that is done, 0 to 1."""
    bytes_per_second: float | None = None
    """How fast the source comes in; None in the other stages."""
    seconds_left: float | None = None
    """Until the source is there, as far as can be told."""
    message: str | None = None
    at: float = Field(default_factory=time.time)


TaskMessageT = TypeVar("TaskMessageT", bound=TaskMessage)


def to_message(topic: str, body: TaskMessage) -> Message:
    """``body`` as it travels: JSON, keyed by the task, so that all messages of a task keep their order."""
    return Message(topic, str(body.task_uuid), body.model_dump_json().encode())


def from_message(model: type[TaskMessageT], message: Message) -> TaskMessageT:
    """The body of ``message``. Raises PermanentError (code ``message_invalid``) if it is not a ``model``."""
    try:
        return model.model_validate_json(message.value)
    except ValidationError as error:
        where = "; ".join(".".join(map(str, item["loc"])) or "body" for item in error.errors(include_input=False))
        raise PermanentError(
            f"the message is not a valid {model.__name__}: {where}", code=ErrorCode.MESSAGE_INVALID
        ) from None
