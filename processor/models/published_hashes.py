"""The published hashes and sizes of model files."""

from __future__ import annotations

import re

from processor.models import model_lists

#: The names of Demucs' weights contain the first 8 digits of their SHA-256.
_DEMUCS_WEIGHTS = re.compile(r"[0-9a-f]+-([0-9a-f]{8})\.th")


def published(name: str) -> tuple[str | None, int | None]:
    """Return the SHA-256 (hexadecimal) and the size (bytes) of a file; None for what is not published."""
    entry = model_lists.known()["files"].get(name, {})
    return entry.get("sha256"), entry.get("bytes")


def contradicts_name(name: str, sha256: str) -> bool:
    """Return True if the file's name contains the start of another SHA-256."""
    match = _DEMUCS_WEIGHTS.fullmatch(name)
    return match is not None and not sha256.startswith(match[1])
