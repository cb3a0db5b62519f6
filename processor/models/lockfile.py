"""``models.lock.json``: what each file was when it first came in, for those whose hash nobody has published.

Trust on first use: from then on the same name must have the same content, on this machine and on every one that the
lock file is copied to.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.files import local_errors, replacing, sync_directory, sync_file
from processor.models.file_lock import locked_folder

LOCK_FILE = "models.lock.json"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Record:
    """What a file was when it came in."""

    sha256: str
    bytes: int
    source: str
    """Where it came from, without secrets."""
    recorded: str
    """When, in UTC."""


def record(sha256: str, size: int, source: str) -> Record:
    """A record of now."""
    return Record(sha256, size, source, datetime.now(UTC).isoformat(timespec="seconds"))


class LockFile:
    """The records of one folder. Every method raises InfrastructureError if the file cannot be read or written."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE

    def records(self) -> dict[str, Record]:
        """All records, by file name."""
        with local_errors():
            try:
                content = self._path.read_bytes()
            except FileNotFoundError:
                return {}
        try:
            return {name: Record(**values) for name, values in _files(json.loads(content)).items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InfrastructureError(
                f"{LOCK_FILE} in MODEL_FILE_DIR is damaged: repair it, or remove it to trust what comes next",
                code=ErrorCode.STORAGE_UNAVAILABLE,
            ) from error

    def set(self, name: str, entry: Record) -> None:
        """Put down what the file ``name`` is. Durable on return."""
        with local_errors(), locked_folder(self._path.with_name(f".{LOCK_FILE}.lock")):
            self._write(self.records() | {name: entry})

    def _write(self, records: dict[str, Record]) -> None:
        files = {name: asdict(entry) for name, entry in sorted(records.items())}
        with replacing(self._path) as draft:
            draft.write_text(json.dumps({"version": _VERSION, "files": files}, indent=1) + "\n")
            sync_file(draft)
        sync_directory(self._path.parent)


def _files(document: Any) -> Any:
    if document["version"] != _VERSION:
        raise ValueError("written by another version")
    return document["files"]
