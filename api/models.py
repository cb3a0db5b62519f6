"""Request and response bodies."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StrictInt,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic.config import JsonDict

from pipeline.messages import DEFAULT_PRIORITY, PRIORITIES, OutputFormat, StemRate
from pipeline.model_choice import (
    LARGEST_WEIGHT,
    MAX_MEMBERS,
    MODEL_NAME_PATTERN,
    SMALLEST_WEIGHT,
    Algorithm,
    ModelChoice,
)
from pipeline.stem_name import StemName

#: Largest ``metadata`` object, bytes of compact JSON. It is part of every message of the job and of the webhook.
MAX_METADATA_BYTES = 16 * 1024
#: No known model separates more stems.
MAX_STEMS = 32

_EXAMPLE: JsonDict = {"audio": "https://example.com/song.mp3", "hook_url": "https://example.com/hook"}


def _small_enough(metadata: dict[str, JsonValue]) -> dict[str, JsonValue]:
    try:
        # JSON has no infinity, but a parser reads 1e999 as one, and it could not be sent back.
        size = len(json.dumps(metadata, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())
    except ValueError:
        raise ValueError("contains a number that is out of range") from None
    if size > MAX_METADATA_BYTES:
        raise ValueError(f"is {size} bytes long")
    return metadata


def _without_repeats(stems: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return stems and tuple(dict.fromkeys(stems))


# Inline schemas: the request body is documented by hand, where references to named schemas cannot be resolved.
_Format = Annotated[OutputFormat, WithJsonSchema({"type": "string", "enum": [item.value for item in OutputFormat]})]
_Metadata = Annotated[
    dict[str, JsonValue],
    AfterValidator(_small_enough),
    WithJsonSchema({"type": "object", "additionalProperties": True}),
]

_Model = Annotated[
    ModelChoice,
    WithJsonSchema(
        {
            "oneOf": [
                {"type": "string", "pattern": MODEL_NAME_PATTERN},
                {
                    "type": "object",
                    "required": ["ensemble"],
                    "properties": {
                        "ensemble": {
                            "type": "array",
                            "items": {"type": "string", "pattern": MODEL_NAME_PATTERN},
                            "minItems": 2,
                            "maxItems": MAX_MEMBERS,
                            "uniqueItems": True,
                        },
                        "algorithm": {
                            "type": "string",
                            "enum": [item.value for item in Algorithm],
                            "default": Algorithm.AVG_WAVE.value,
                        },
                        "weights": {
                            "type": "array",
                            "items": {"type": "number", "minimum": SMALLEST_WEIGHT, "maximum": LARGEST_WEIGHT},
                            "description": "One for each model, in their order; with "
                            f"{' and '.join(item for item in Algorithm if item.is_weighted)} only.",
                        },
                    },
                },
            ]
        }
    ),
]


class GenerateRequest(BaseModel):
    """A job. Unknown fields are refused, unless the header ``Prefer: handling=lenient`` is sent."""

    model_config = ConfigDict(
        extra="ignore",
        frozen=True,
        json_schema_extra={
            "examples": [
                _EXAMPLE,
                {
                    **_EXAMPLE,
                    "model": {
                        "ensemble": ["UVR-MDX-NET-Inst_HQ_4.onnx", "htdemucs_ft.yaml"],
                        "algorithm": "avg_wave",
                        "weights": [1, 2],
                    },
                },
                {**_EXAMPLE, "output_format": "flac", "stems": ["vocals"], "priority": 5, "metadata": {"album": 7}},
            ]
        },
    )

    audio: Annotated[str, Field(description="HTTP(S) URL of the song.")]
    hook_url: Annotated[str, Field(description="HTTP(S) URL that receives the webhook when the job has ended.")]
    model: Annotated[
        _Model | None,
        Field(
            description="File name of the model, never a path; or the name of one of audio-separator's presets, such "
            "as `vocal_balanced`; or an ensemble: several models, whose stems of the same name are combined. "
            "Default: the model that the processor was started with."
        ),
    ] = None
    stems: Annotated[
        tuple[StemName, ...] | None,
        Field(min_length=1, max_length=MAX_STEMS, description="Names of the stems to keep. Default: all of them."),
        AfterValidator(_without_repeats),
    ] = None
    output_format: Annotated[
        _Format,
        Field(
            description="File format of the stems. `wav` and `flac` have the depth of the source, 16 or 24 bits; "
            "`wav32f` is 32-bit float."
        ),
    ] = OutputFormat.WAV
    sample_rate: Annotated[
        StemRate,
        Field(
            description="Sample rate of the stems, Hz. `source`: that of the source, with as many samples as it has."
        ),
    ] = "source"
    priority: Annotated[
        StrictInt,
        Field(
            ge=min(PRIORITIES),
            le=max(PRIORITIES),
            description="5 is urgent, 1 can wait. Each priority has twice the share of the processors' time of the one "
            "below it, so that none starves. It has no effect above the rate limit: see `X-Client-Id`.",
        ),
    ] = DEFAULT_PRIORITY
    metadata: Annotated[
        _Metadata | None,
        Field(description=f"Any object; returned in the webhook. At most {MAX_METADATA_BYTES} bytes of JSON."),
    ] = None

    @field_validator("output_format", "sample_rate", "priority", mode="before")
    @classmethod
    def _null_is_default(cls, value: Any, field: ValidationInfo) -> Any:
        return cls.model_fields[str(field.field_name)].default if value is None else value


class Accepted(BaseModel):
    """The job is durable: it will have exactly one outcome."""

    message: Literal["Task has been queued for processing"] = "Task has been queued for processing"
    status: Literal["queued"] = "queued"
    task_uuid: UUID


class Health(BaseModel):
    """The process is alive."""

    status: Literal["healthy"] = "healthy"
    timestamp: Annotated[int, Field(description="Unix time, s.")]
    version: str


class Component(BaseModel):
    """One dependency of the service."""

    status: Literal["ready", "unavailable"]
    error: Annotated[str | None, Field(description="Why it is unavailable.")] = None


class Components(BaseModel):
    """The dependencies of the service."""

    broker: Component
    storage: Component


class Readiness(BaseModel):
    """The readiness to accept jobs."""

    status: Literal["ready", "unavailable"]
    components: Components


class ErrorBody(BaseModel):
    """The form of every error."""

    error: Annotated[str, Field(description="One clear sentence.")]
    details: Annotated[
        dict[str, Any] | None, Field(description="Facts for programs, such as the field; null if there are none.")
    ] = None
