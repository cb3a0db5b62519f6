"""The body of the webhook: the fields that clients rely on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.messages import Failure, SeparationResult

#: Stems whose URL is also a field at the top level of the body, where the first clients expect it.
TOP_LEVEL_STEMS = ("vocals", "instrumental")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedStem:
    """A finished stem, as the body lists it."""

    name: str
    url: str
    sha256: str
    bytes: int
    duration: float
    """Length in s."""
    sample_rate: int
    """Frames per second, Hz."""
    channels: int
    bits: int
    """Bits of one sample: 16, 24, or 32 for float."""
    format: str
    """File extension."""


def success_body(result: SeparationResult, stems: Sequence[PublishedStem], *, at: float) -> bytes:
    """Return the body for finished stems; ``at`` is the time of their completion, s since the epoch."""
    return _serialise(
        result,
        "success",
        at,
        {
            **{stem.name: stem.url for stem in stems if stem.name in TOP_LEVEL_STEMS},
            "stems": [asdict(stem) for stem in stems],
            "model": result.model,
            "device": result.device,
            "timings": result.timings,
            "degraded": list(result.degraded),
        },
    )


def failed_body(result: SeparationResult, failure: Failure, *, at: float) -> bytes:
    """Return the body for a failed task; ``at`` is the time of the failure, s since the epoch."""
    return _serialise(
        result,
        "failed",
        at,
        {
            "error_message": failure.message,
            "error": {"code": failure.code, "retryable": failure.retryable},
        },
    )


def _serialise(result: SeparationResult, status: str, at: float, fields: dict[str, Any]) -> bytes:
    head = {"task_uuid": str(result.task_uuid), "status": status, "timestamp": int(at)}
    body = {**head, **fields, "metadata": result.task.metadata}
    return json.dumps(body, allow_nan=False, separators=(",", ":")).encode("ascii")
