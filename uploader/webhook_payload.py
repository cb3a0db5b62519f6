"""The webhook's body, field by field as clients rely on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.messages import Failure, SeparationResult

#: Stems whose URL also stands at the top of the body, where the first clients look for it.
TOP_LEVEL_STEMS = ("vocals", "instrumental")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedStem:
    """A finished stem as the client is told of it."""

    name: str
    url: str
    sha256: str
    bytes: int
    duration: float
    """Length in s."""
    sample_rate: int
    """Frames per second, Hz."""
    channels: int
    format: str


def success_body(result: SeparationResult, stems: Sequence[PublishedStem], *, at: float) -> bytes:
    """The body that tells of finished stems; ``at`` is the time (s since the epoch) at which they were."""
    urls = {stem.name: stem.url for stem in stems if stem.name in TOP_LEVEL_STEMS}
    return _serialised(
        {
            **_head(result, "success", at),
            **urls,
            "stems": [asdict(stem) for stem in stems],
            "model": result.model,
            "device": result.device,
            "timings": result.timings,
            "degraded": list(result.degraded),
            "metadata": result.task.metadata,
        }
    )


def failed_body(result: SeparationResult, failure: Failure, *, at: float) -> bytes:
    """The body that tells why there are no stems."""
    return _serialised(
        {
            **_head(result, "failed", at),
            "error_message": failure.message,
            "error": {"code": failure.code, "retryable": failure.retryable},
            "metadata": result.task.metadata,
        }
    )


def _head(result: SeparationResult, status: str, at: float) -> dict[str, Any]:
    return {"task_uuid": str(result.task_uuid), "status": status, "timestamp": int(at)}


def _serialised(body: dict[str, Any]) -> bytes:
    return json.dumps(body, allow_nan=False, separators=(",", ":")).encode("ascii")
