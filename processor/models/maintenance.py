"""Verify the files of the folder, and find those that no model needs."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from filelock import Timeout

from pipeline.errors import PipelineError
from pipeline.files import local_errors, sync_directory
from processor.models.catalogue import Catalogue, Model, ModelFile
from processor.models.encryption import SUFFIX
from processor.models.errors import DecryptionError, NotServedError
from processor.models.file_lock import exclusive_lock
from processor.models.lockfile import record
from processor.models.model_lists import LISTS
from processor.models.published_hashes import contradicts_name
from processor.models.store import INCOMING, ModelStore

#: The suffixes of model files. Other files in the folder are never touched.
_KINDS = (".onnx", ".pth", ".ckpt", ".th", ".yaml")


class FileState(StrEnum):
    """The result of verifying every byte of a file."""

    OK = "ok"
    UNKNOWN = "unknown"  # readable, but the expected content is not known
    MISSING = "missing"
    DAMAGED = "damaged"
    CLOSED = "closed"  # encrypted, and cannot be decrypted
    REPAIRED = "repaired"
    RECORDED = "recorded"

    @property
    def is_failure(self) -> bool:
        """True if the operator has to repair the file."""
        return self in (FileState.MISSING, FileState.DAMAGED, FileState.CLOSED)


@dataclass(frozen=True, slots=True)
class FileFinding:
    """The state of one file."""

    file: str
    state: FileState
    detail: str = ""


def required_files(models: Iterable[Model]) -> dict[str, ModelFile]:
    """Return every file that these models need, by name."""
    return {file.name: file for model in models for file in model.files}


def files_present(store: ModelStore, catalogue: Catalogue) -> dict[str, ModelFile]:
    """Return the model files in the folder, by name; without an address if the catalogue does not have them."""
    with local_errors():
        names = {path.name.removesuffix(SUFFIX) for path in store.folder.iterdir() if path.is_file()}
    known = catalogue.files()
    return {
        name: known.get(name, ModelFile(name, ()))
        for name in sorted(names)
        if not name.startswith(".") and (name in known or name.endswith(_KINDS))
    }


def verify(store: ModelStore, file: ModelFile, *, repair: bool = False, adopt: bool = False) -> FileFinding:
    """Read the whole file and compare it with the expected content.

    ``repair``: download it if it is missing or damaged. ``adopt``: record its content if the expected content is not
    known. Raises InfrastructureError.
    """
    finding = _examine(store, file.name)
    if repair and finding.state in (FileState.MISSING, FileState.DAMAGED) and file.urls:
        try:
            store.pull(file, again=True)
        except NotServedError as error:
            return FileFinding(file.name, finding.state, str(error))
        except PipelineError as error:
            return FileFinding(file.name, finding.state, error.message)
        return FileFinding(file.name, FileState.REPAIRED, f"was {finding.state}")
    if adopt and finding.state is FileState.UNKNOWN:
        with local_errors():
            if store.is_sealed(file.name):
                size = store.encrypted_files.plain_bytes(store.sealed_path(file.name))
            else:
                size = store.plain_path(file.name).stat().st_size
        store.lock_file.set(file.name, record(finding.detail, size, "MODEL_FILE_DIR"))
        return FileFinding(file.name, FileState.RECORDED, finding.detail)
    return finding


def _examine(store: ModelStore, name: str) -> FileFinding:
    if not store.has(name):
        return FileFinding(name, FileState.MISSING)
    try:
        found = store.sha256(name)
    except DecryptionError as error:
        return FileFinding(name, FileState.CLOSED, error.message)
    expected = store.expected_sha256(name)
    if found != (expected or found) or contradicts_name(name, found):
        return FileFinding(name, FileState.DAMAGED, f"SHA-256 {found} instead of {expected or 'what its name says'}")
    return FileFinding(name, FileState.OK if expected else FileState.UNKNOWN, found)


def unneeded_entries(store: ModelStore, catalogue: Catalogue, keep: Collection[Model] | None) -> list[Path]:
    """Return the model files that ``keep`` does not need, and the leftovers of downloads.

    ``keep``: None stands for all models of the catalogue. Raises InfrastructureError.
    """
    needed = set(catalogue.files() if keep is None else required_files(keep)) | set(LISTS)
    unneeded = []
    with local_errors():
        for entry in sorted(store.folder.iterdir()):
            name = entry.name.removesuffix(SUFFIX)
            is_model_file = entry.is_file() and not name.startswith(".") and name.endswith(_KINDS)
            if (is_model_file and name not in needed) or _is_leftover(entry):
                unneeded.append(entry)
    return unneeded


def _is_leftover(entry: Path) -> bool:
    """Return True for a folder of unfinished downloads that no running process uses."""
    if not entry.is_dir() or not entry.name.startswith(INCOMING):
        return False
    try:
        with ExitStack() as stack:
            for lock in entry.glob("*.lock"):
                stack.enter_context(exclusive_lock(lock, wait=False))
    except Timeout:
        return False
    return True


def remove(store: ModelStore, entries: Iterable[Path]) -> Iterator[Path]:
    """Remove the entries, and yield each one before its removal. Raises InfrastructureError."""
    for entry in entries:
        yield entry
        with local_errors():
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
    with local_errors():
        sync_directory(store.folder)
