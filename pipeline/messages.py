"""The contract between the services: one model per message type, JSON on the wire, claim checks for audio.

A newer writer can run beside an older reader:

* A reader keeps fields that it does not know and passes them on, except those inside ``model``.
* A value that a reader does not know and only passes on, such as an error code, stays as it is.
* A writer that adds something that a reader must understand raises ``version`` in the messages that need it, or uses a
  new value of an enumeration. An older reader defers such a message (code ``message_newer``) to a newer one.
"""

from __future__ import annotations

import json
import math
import time
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypeVar
from uuid import UUID

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from pipeline.errors import DeferredError, ErrorCode, ErrorKind, PermanentError, PipelineError
from pipeline.model_choice import ModelChoice
from pipeline.stem_name import StemName
from pipeline.transport.protocol import Message

#: In hexadecimal.
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

#: The version of this contract that this code reads.
VERSION = 1
#: The version that a reader needs to handle a message.
RequiredVersion = Annotated[int, Field(ge=1, le=VERSION)]

#: From the lowest to the highest.
PRIORITIES = range(1, 6)
DEFAULT_PRIORITY = 3


class OutputFormat(StrEnum):
    """File formats of the finished stems. ``wav`` and ``flac`` have the depth of the source."""

    WAV = "wav"
    WAV16 = "wav16"
    WAV24 = "wav24"
    WAV32F = "wav32f"
    FLAC = "flac"
    FLAC16 = "flac16"
    FLAC24 = "flac24"

    @property
    def extension(self) -> str:
        """The file extension, without a dot."""
        return "flac" if self.value.startswith("flac") else "wav"


#: Sample rate of the stems: that of the source, or a rate in Hz.
StemRate = Literal["source", 44_100, 48_000]


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


#: A state that was read; it stays a string if this version does not know it.
ReadState = Annotated[TaskState | str, Field(union_mode="left_to_right")]
ReadCode = Annotated[ErrorCode | str, Field(union_mode="left_to_right")]
ReadKind = Annotated[ErrorKind | str, Field(union_mode="left_to_right")]


class WireModel(BaseModel):
    """Base of everything that is sent or stored: immutable, keeps unknown fields, without NaN and Infinity."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


class TaskMessage(WireModel):
    """Base of the message types: each is about one task."""

    task_uuid: UUID
    version: RequiredVersion = 1


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
    sample_rate: StemRate = "source"
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
    """For readers of earlier versions. This version derives it: see ``pipeline.storage.object_keys.handoff_key``."""
    sha256: Sha256
    bytes: int
    duration: float
    """Length in s."""
    sample_rate: int
    """Frames per second, Hz."""
    channels: int
    peak: float
    """Largest absolute sample value; 1.0 is full scale."""


class SourceAudio(WireModel):
    """Properties of the decoded source."""

    sample_rate: int
    """Frames per second, Hz."""
    bits: int
    """Depth of the stems in ``wav`` and ``flac``: 16 or 24."""


class Failure(WireModel):
    """The reason of a failure, as the client sees it."""

    code: ReadCode
    kind: ReadKind
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
    source: SourceAudio | None = None
    """None: from an older processor, whose stems have 16 bits."""
    model: str | None = None
    """Name of the model, or ``str`` of an ensemble, with presets expanded."""
    device: str | None = None
    timings: dict[str, float] = Field(default_factory=dict)
    """Duration of each stage in s."""
    degraded: tuple[str, ...] = ()
    error: Failure | None = None
    finished_at: float = Field(default_factory=time.time)

    @model_validator(mode="after")
    def _require_one_task(self) -> Self:
        if self.task.task_uuid != self.task_uuid:
            raise ValueError("task_uuid and task.task_uuid differ")
        if len({stem.name for stem in self.stems}) < len(self.stems):
            raise ValueError("two stems have the same name")
        return self

    @classmethod
    def failed(cls, task: SeparationTask, error: PipelineError) -> SeparationResult:
        """Return the terminal ``failed`` result of ``task``."""
        return cls(task_uuid=task.task_uuid, task=task, status="failed", error=Failure.from_error(error))


class TaskEvent(TaskMessage):
    """A progress event of a task. Events may be lost; outcomes are sent in ``SeparationResult``."""

    status: ReadState
    progress: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the current stage that is done, 0 to 1."""
    bytes_per_second: float | None = None
    """Rate of the download; None in the other stages."""
    seconds_left: float | None = None
    """Estimated time until the end of the download; None if unknown."""
    message: str | None = None
    at: float = Field(default_factory=time.time)


TaskMessageT = TypeVar("TaskMessageT", bound=TaskMessage)


_METADATA: TypeAdapter[dict[str, JsonValue] | None] = TypeAdapter(dict[str, JsonValue] | None)


def to_message(topic: str, body: TaskMessage) -> Message:
    """Encode ``body`` as JSON, keyed by the task, so that all messages of a task stay in order."""
    return Message(topic, str(body.task_uuid), body.model_dump_json().encode())


def from_message(model: type[TaskMessageT], message: Message) -> TaskMessageT:
    """Decode the body of ``message``.

    Raises PermanentError (code ``message_invalid``) if it is not a ``model`` or its key is not the task, and
    DeferredError (code ``message_newer``) if only a newer version of this service can read it.
    """
    try:
        _parse_json(message.value)  # pydantic alone takes NaN where the model allows any value
        body = model.model_validate_json(message.value)
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False)
        if any(fault["type"] == "less_than_equal" and fault["loc"][-1:] == ("version",) for fault in faults) or all(
            fault["type"] in ("enum", "literal_error") for fault in faults
        ):
            raise DeferredError("the job needs a newer version of this service", code=ErrorCode.MESSAGE_NEWER) from None
        where = "; ".join(".".join(map(str, fault["loc"])) or "body" for fault in faults)
        raise _invalid(model, where) from None
    except (ValueError, RecursionError):
        raise _invalid(model, "body") from None
    if message.key != str(body.task_uuid):
        raise _invalid(model, "the key is not task_uuid")
    return body


def unread_failure(topic: str, message: Message, error: PipelineError) -> Message | None:
    """Return the ``failed`` result, for ``topic``, of a task or result whose body cannot be read.

    It needs the envelope: the task, its ``hook_url``, and the message's key. Returns None without them.
    """
    try:
        body = _parse_json(message.value)
        envelope = body["task"] if isinstance(body.get("task"), dict) else body
        kept = {name: envelope[name] for name in ("task_uuid", "hook_url", "run") if name in envelope}
        fields = {**kept, "audio": "", "metadata": _metadata(envelope)}
        task = SeparationTask.model_validate_json(json.dumps(fields))
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return None
    if {str(body.get("task_uuid")), message.key} != {str(task.task_uuid)}:
        return None
    return to_message(topic, SeparationResult.failed(task, error))


def _metadata(envelope: dict[str, Any]) -> dict[str, JsonValue] | None:
    try:
        # As JSON, since pydantic accepts no lone surrogates there.
        return _METADATA.validate_json(json.dumps(envelope.get("metadata")))
    except ValidationError:
        return None


def _parse_json(value: bytes) -> Any:
    """Parse JSON in UTF-8. Raises ValueError, for NaN and infinite numbers as well, and RecursionError."""
    return json.loads(value.decode(), parse_constant=_finite, parse_float=_finite)


def _finite(literal: str) -> float:
    number = float(literal)
    if not math.isfinite(number):
        raise ValueError("a number is not finite")
    return number


def _invalid(model: type[BaseModel], where: str) -> PermanentError:
    return PermanentError(f"the message is not a valid {model.__name__}: {where}", code=ErrorCode.MESSAGE_INVALID)
