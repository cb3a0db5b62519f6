"""What has been published about the content of files."""

from __future__ import annotations

import re

from processor.models import model_lists

#: Demucs names its weights by the beginning of their SHA-256.
_DEMUCS_WEIGHTS = re.compile(r"[0-9a-f]+-([0-9a-f]{8})\.th")


def published(name: str) -> tuple[str | None, int | None]:
    """The SHA-256 of a file, in hexadecimal, and its size, bytes; None where nobody has published it."""
    entry = model_lists.known()["files"].get(name, {})
    return entry.get("sha256"), entry.get("bytes")


def contradicts_name(name: str, sha256: str) -> bool:
    """Whether a file's own name says that its SHA-256 begins otherwise."""
    match = _DEMUCS_WEIGHTS.fullmatch(name)
    return match is not None and not sha256.startswith(match[1])
