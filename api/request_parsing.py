"""Validation of ``POST /generate``, in the order that the contract defines for errors."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, get_args

from fastapi import Request
from pydantic import ValidationError
from pydantic_core import from_json

from api.errors import ApiError
from api.models import MAX_METADATA_BYTES, GenerateRequest
from pipeline.download.ssrf.url_parser import parse_url
from pipeline.errors import ErrorCode, PermanentError
from pipeline.messages import (
    PRIORITIES,
    OutputFormat,
    SeparationResult,
    SeparationTask,
    StemRate,
    from_message,
    to_message,
)
from pipeline.model_choice import LARGEST_WEIGHT, MAX_MEMBERS, SMALLEST_WEIGHT, Algorithm, Ensemble

#: Names the client.
CLIENT_HEADER = "X-Client-Id"
#: Printable ASCII, since it is logged.
CLIENT_PATTERN = "^[ -~]{1,128}$"

_JSON = "application/json"

#: Unknown fields that an error names, and the characters of each that it shows.
_NAMED_FIELDS, _SHOWN_CHARACTERS = 5, 64

#: The error sentence of each optional field.
_SENTENCES = {
    "model": "model must be the file name of a model, such as UVR-MDX-NET-Inst_HQ_4.onnx, not a path; or an ensemble",
    "model.ensemble.ensemble": f"model.ensemble must be a list of 2 to {MAX_MEMBERS} different file names of models",
    "model.ensemble.algorithm": f"model.algorithm must be one of: {', '.join(Algorithm)}",
    "model.ensemble.weights": f"model.weights must be positive numbers, from {SMALLEST_WEIGHT:g} to {LARGEST_WEIGHT:g}",
    # Errors of an ensemble as a whole.
    "model.ensemble": "model.weights must be as many as the models, and only with "
    f"{' or '.join(item for item in Algorithm if item.is_weighted)}",
    "stems": 'stems must be a list of stem names, such as ["vocals", "instrumental"]',
    "output_format": f"output_format must be one of: {', '.join(OutputFormat)}",
    "sample_rate": f"sample_rate must be one of: {', '.join(map(str, get_args(StemRate)))}",
    "priority": f"priority must be a whole number from {min(PRIORITIES)} (can wait) to {max(PRIORITIES)} (urgent)",
    "metadata": f"metadata must be a JSON object of at most {MAX_METADATA_BYTES} bytes",
}


async def read_fields(request: Request) -> dict[str, Any]:
    """Return the JSON object in the body. Raises ApiError 400, or 413 if the body is too large."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != _JSON:
        raise ApiError(400, f"Content-Type must be {_JSON}")
    body = await request.body()
    if not body.strip():
        raise _body_missing()
    try:
        # Stricter than the standard library: bounded depth, valid UTF-8, no lone surrogates, no NaN.
        fields = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, "Request body must be valid JSON", details={"problem": str(error)}) from None
    if fields in (None, {}, []):
        raise _body_missing()
    if not isinstance(fields, dict):
        raise ApiError(400, "Request body must be a JSON object")
    return fields


def _body_missing() -> ApiError:
    return ApiError(400, "Request body is required")


def required_urls(fields: dict[str, Any]) -> dict[str, str]:
    """Return ``audio`` and ``hook_url``, unchecked. Raises ApiError 400 if one is missing or not a string."""
    for name in ("audio", "hook_url"):
        if fields.get(name) in (None, ""):
            raise ApiError(400, f"{name} field is required", details={"field": name})
    for name in ("audio", "hook_url"):
        if not isinstance(fields[name], str):
            raise invalid_url(name, "it is not a string")
    return {"audio": fields["audio"], "hook_url": fields["hook_url"]}


def invalid_url(name: str, problem: str) -> ApiError:
    """Return the error for a field that is not a valid URL, for the reason ``problem``."""
    return ApiError(400, f"{name} must be a valid HTTP(S) URL", details={"field": name, "problem": problem})


def is_lenient(preferences: Sequence[str]) -> bool:
    """Return whether the values of ``Prefer`` ask for ``handling=lenient`` (RFC 7240): unknown fields are ignored."""
    wanted = (item.partition(";")[0].replace(" ", "") for value in preferences for item in value.split(","))
    handling = [item.lower() for item in wanted if item.lower().startswith("handling=")]
    return handling[:1] in (["handling=lenient"], ['handling="lenient"'])


def reject_unknown_fields(fields: Mapping[str, Any]) -> None:
    """Raise ApiError 422 if the request, or its ensemble, has a field that is unknown."""
    problems = _unknown(fields, GenerateRequest.model_fields)
    if isinstance(model := fields.get("model"), dict):
        problems += _unknown(model, Ensemble.model_fields, prefix="model.")
    if problems:
        raise ApiError(
            422,
            "; ".join(item["problem"] for item in problems[:_NAMED_FIELDS]),
            details={"field": problems[0]["field"], "problems": problems[:_NAMED_FIELDS]},
        )


def _unknown(fields: Mapping[str, Any], known: Collection[str], *, prefix: str = "") -> list[dict[str, str]]:
    problems = []
    for name in fields:
        if name in known:
            continue
        shown = prefix + name[:_SHOWN_CHARACTERS]
        nearest = difflib.get_close_matches(name[:_SHOWN_CHARACTERS].lower(), known, n=1)
        hint = f"did you mean {prefix}{nearest[0]}?" if nearest else f"known are: {', '.join(known)}"
        problems.append({"field": shown, "problem": f"{shown} is not a known field, {hint}"})
    return problems


def require_deliverable(task: SeparationTask) -> None:
    """Raise ApiError 422 unless every service can read the task from its messages.

    The result that contains the task is one level deeper than the request, and its readers have a limit of the depth.
    """
    failure = PermanentError("", code=ErrorCode.INTERNAL)
    try:
        from_message(SeparationResult, to_message("", SeparationResult.failed(task, failure)))
    except PermanentError:
        raise ApiError(
            422, "metadata is nested too deeply", details={"field": "metadata", "problem": "is nested too deeply"}
        ) from None


def validate(fields: dict[str, Any]) -> GenerateRequest:
    """Return the validated request. Raises ApiError 422 for the first optional field that is out of range."""
    try:
        return GenerateRequest.model_validate(fields)
    except ValidationError as error:
        # The response leaves out the input: it may be long, and the client has it.
        errors = error.errors(include_url=False, include_context=False, include_input=False)
    problems = [
        {"field": _field_path(item["loc"]), "problem": item["msg"].removeprefix("Value error, ")} for item in errors
    ]
    field = str(errors[0]["loc"][0])
    # The most specific sentence for the location.
    location = errors[0]["loc"]
    names = [".".join(map(str, location[:end])) for end in range(len(location), 0, -1)]
    sentence = next(_SENTENCES[name] for name in names if name in _SENTENCES)
    raise ApiError(422, sentence, details={"field": field, "problems": problems})


def _field_path(location: tuple[int | str, ...]) -> str:
    """Return the path of the field as the client knows it, without the variant that ``model`` was parsed as."""
    if location[0] == "model":
        location = ("model", *location[2:])
    return ".".join(map(str, location))


def client_name(names: Sequence[str], hook_url: str) -> str:
    """Return the name of the client: the value of ``X-Client-Id`` or, by default, the host of ``hook_url``.

    ``names``: all values of the header. ``hook_url`` must be valid. Raises ApiError 422.
    """
    if not names:
        return parse_url(hook_url).host
    if len(names) > 1 or not re.fullmatch(CLIENT_PATTERN, names[0]):
        raise ApiError(
            422,
            f"{CLIENT_HEADER} must be sent once, and be 1 to 128 printable ASCII characters",
            details={"field": CLIENT_HEADER},
        )
    return names[0]
