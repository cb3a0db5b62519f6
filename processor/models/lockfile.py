"""``models.lock.json``: the hash of each file when it was first downloaded, for files without a published hash.

Trust on first use: from then on, a file of the same name must have the same content, on this machine and on every
machine that the lock file is copied to.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.files import local_errors, replacing, sync_directory, sync_file
from processor.models.file_lock import exclusive_lock

LOCK_FILE = "models.lock.json"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Record:
    """The content of a file when it was first downloaded."""

    sha256: str
    bytes: int
    source: str
    """The address of the download, without secrets."""
    recorded: str
    """The time of the record, UTC, ISO 8601."""


def record(sha256: str, size: int, source: str) -> Record:
    """Return a record with the current time. ``size``: bytes."""
    return Record(sha256, size, source, datetime.now(UTC).isoformat(timespec="seconds"))


class LockFile:
    """The records of one folder. Every method raises InfrastructureError if the file cannot be read or written."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE

    def records(self) -> dict[str, Record]:
        """Return all records, by file name."""
        with local_errors():
            try:
                content = self._path.read_bytes()
            except FileNotFoundError:
                return {}
        try:
            document = json.loads(content)
            if document["version"] != _VERSION:
                raise ValueError("written by another version")
            return {name: Record(**values) for name, values in document["files"].items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InfrastructureError(
                f"{LOCK_FILE} in MODEL_FILE_DIR is damaged: repair it, or remove it to trust what comes next",
                code=ErrorCode.STORAGE_UNAVAILABLE,
            ) from error

    def set(self, name: str, entry: Record) -> None:
        """Record the file ``name``. The record is durable on return."""
        with local_errors(), exclusive_lock(self._path.with_name(f".{LOCK_FILE}.lock")):
            records = self.records() | {name: entry}
            files = {file: asdict(values) for file, values in sorted(records.items())}
            with replacing(self._path) as draft:
                draft.write_text(json.dumps({"version": _VERSION, "files": files}, indent=1) + "\n")
                sync_file(draft)
            sync_directory(self._path.parent)
