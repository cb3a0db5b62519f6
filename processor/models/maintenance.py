"""Are the files what they have to be, and which of them does nobody need?"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import local_errors, sync_directory
from processor.models.catalogue import Catalogue, Model, ModelFile, lists_for
from processor.models.errors import DecryptionError, NotServedError
from processor.models.file_lock import locked_folder
from processor.models.lockfile import record
from processor.models.model_lists import LISTS
from processor.models.options import SUFFIX
from processor.models.published_hashes import contradicts_name
from processor.models.store import INCOMING, ModelStore

#: What model files are called; everything else in the folder is somebody else's.
_KINDS = (".onnx", ".pth", ".ckpt", ".th", ".yaml")


class FileState(StrEnum):
    """What is known of a file after a look at every byte of it."""

    OK = "ok"
    UNKNOWN = "unknown"  # readable, and nobody has said what it should be
    MISSING = "missing"
    DAMAGED = "damaged"
    CLOSED = "closed"  # sealed, and it does not open
    REPAIRED = "repaired"
    RECORDED = "recorded"

    @property
    def is_trouble(self) -> bool:
        """Whether somebody has to do something about it."""
        return self in (FileState.MISSING, FileState.DAMAGED, FileState.CLOSED)


@dataclass(frozen=True, slots=True)
class FileFinding:
    """The state of one file."""

    file: str
    state: FileState
    detail: str = ""


def files_of(models: Iterable[Model]) -> dict[str, ModelFile]:
    """Every file that these models need, by name."""
    return {file.name: file for model in models for file in (*lists_for(model), *model.files)}


def files_present(store: ModelStore, catalogue: Catalogue) -> dict[str, ModelFile]:
    """The model files in the folder, by name; without an address if the catalogue does not know them."""
    with local_errors():
        names = {path.name.removesuffix(SUFFIX) for path in store.folder.iterdir() if path.is_file()}
    known = catalogue.files()
    return {
        name: known.get(name, ModelFile(name, ()))
        for name in sorted(names)
        if not name.startswith(".") and (name in known or name.endswith(_KINDS))
    }


def verify(store: ModelStore, file: ModelFile, *, repair: bool = False, adopt: bool = False) -> FileFinding:
    """Read the whole file and compare it with what it has to be.

    ``repair``: fetch it if it is missing or damaged. ``adopt``: record what it is if nobody knows what it should be.
    Raises InfrastructureError.
    """
    finding = _look(store, file.name)
    if repair and finding.state in (FileState.MISSING, FileState.DAMAGED) and file.urls:
        try:
            store.pull(file, again=True)
        except NotServedError as error:
            return FileFinding(file.name, finding.state, str(error))
        except PipelineError as error:
            return FileFinding(file.name, finding.state, error.message)
        return FileFinding(file.name, FileState.REPAIRED, f"was {finding.state}")
    if adopt and finding.state is FileState.UNKNOWN:
        store.lock_file.set(file.name, record(finding.detail, _size(store, file.name), "MODEL_FILE_DIR"))
        return FileFinding(file.name, FileState.RECORDED, finding.detail)
    return finding


def _look(store: ModelStore, name: str) -> FileFinding:
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


def _size(store: ModelStore, name: str) -> int:
    with local_errors():
        if store.is_sealed(name):
            return store.vault.plain_bytes(store.sealed_path(name))
        return store.plain_path(name).stat().st_size


def superfluous(store: ModelStore, catalogue: Catalogue, keep: Collection[Model] | None) -> list[Path]:
    """What may go: model files that ``keep`` (None: any model there is) does not need, and what is left of downloads.

    Raises InfrastructureError.
    """
    needed = set(catalogue.files() if keep is None else files_of(keep)) | set(LISTS)
    with local_errors():
        entries = sorted(store.folder.iterdir())
        return [entry for entry in entries if _is_leftover(entry) or _is_unneeded(entry, needed)]


def remove(store: ModelStore, entries: Iterable[Path]) -> Iterator[Path]:
    """Remove them, each after it was yielded. Raises InfrastructureError."""
    for entry in entries:
        yield entry
        with local_errors():
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
    with local_errors():
        sync_directory(store.folder)


def _is_unneeded(entry: Path, needed: Collection[str]) -> bool:
    name = entry.name.removesuffix(SUFFIX)
    return entry.is_file() and not name.startswith(".") and name.endswith(_KINDS) and name not in needed


def _is_leftover(entry: Path) -> bool:
    """A folder of files on their way that no living process is at work on."""
    if not entry.is_dir() or not entry.name.startswith(INCOMING):
        return False
    try:
        with ExitStack() as stack:
            for lock in entry.glob("*.lock"):
                stack.enter_context(locked_folder(lock, wait=False))
    except BlockingIOError:
        return False
    return True
