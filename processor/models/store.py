"""The files of models in one folder, which several processes may share: fetched, placed, sealed, opened."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pipeline.files import file_sha256, local_errors, sync_directory, sync_file
from pipeline.service.logs import get_logger, loggable_url
from processor.models.catalogue import ModelFile
from processor.models.download import FetchedFile, ModelDownloads, fetch_model_file
from processor.models.encryption.encrypted_files import EncryptedFiles
from processor.models.errors import DecryptionError, NotServedError, OfflineError
from processor.models.file_lock import locked_folder
from processor.models.lockfile import LockFile, record
from processor.models.model_lists import LISTS
from processor.models.options import SUFFIX, StoreOptions
from processor.models.published_hashes import published

log = get_logger(__name__)

#: Files on their way, with what is known of them so far; not there while nothing is on its way.
INCOMING = ".incoming"


class ModelStore:
    """The folder of models, MODEL_FILE_DIR, which must exist. Safe for several processes, not for several threads."""

    def __init__(self, folder: Path, network: ModelDownloads, options: StoreOptions | None = None) -> None:
        self.folder = folder
        self.options = options or StoreOptions()
        self.lock_file = LockFile(folder)
        self.vault = EncryptedFiles(self.options)
        self._network = network

    def plain_path(self, name: str) -> Path:
        """Where the file is, if it is plain."""
        return self.folder / name

    def sealed_path(self, name: str) -> Path:
        """Where the file is, if it is sealed."""
        return self.folder / f"{name}{SUFFIX}"

    def has(self, name: str) -> bool:
        """Whether the file is there, plain or sealed."""
        return self.plain_path(name).is_file() or self.sealed_path(name).is_file()

    def is_sealed(self, name: str) -> bool:
        """Whether the file is there sealed, and not plain besides."""
        return not self.plain_path(name).is_file() and self.sealed_path(name).is_file()

    def bytes(self, name: str) -> int:
        """How large the file is, sealed or plain; 0 if it is not there."""
        with suppress(OSError):
            return (self.sealed_path(name) if self.is_sealed(name) else self.plain_path(name)).stat().st_size
        return 0

    def expected_sha256(self, name: str) -> str | None:
        """What the file must be: as published, else as it was when it first came in; None if neither is known."""
        entry = self.lock_file.records().get(name)
        return published(name)[0] or (entry.sha256 if entry else None)

    def sha256(self, name: str) -> str:
        """What the file is. Raises SealError if it is sealed and cannot be opened, and InfrastructureError."""
        if self.is_sealed(name):
            return self.vault.sha256(self.sealed_path(name), name)
        return file_sha256(self.plain_path(name))

    def fetch(self, url: str, path: str) -> None:
        """Have the file that ``path`` ends with; for audio-separator, which knows where its models come from.

        Raises NotServedError where asking this address again cannot help, TransientError, InfrastructureError.
        """
        wanted = Path(path)
        self.pull(ModelFile(wanted.name, (url,)))
        plain = self.plain_path(wanted.name)
        if wanted.parent != self.folder and plain.is_file() and not wanted.exists():
            with local_errors():
                wanted.symlink_to(plain.absolute())

    def pull(self, file: ModelFile, *, again: bool = False, anew: bool = False) -> bool:
        """Have ``file``; whether it had to be fetched.

        ``again``: fetch it though it is there, and replace it. ``anew``: do that, and trust whatever comes, unless
        something else is published.

        Raises NotServedError if none of its addresses serves it, TransientError (``source_corrupt`` if the content is
        not the one that is known, ``model_unavailable`` offline, other codes of the download), InfrastructureError and
        CancelledError. The messages name the file and its address: they are for the operator.
        """
        again = again or anew
        if self.has(file.name) and not again:
            return False
        if self.options.offline:
            raise OfflineError(file.name, " or ".join(map(loggable_url, file.urls)))
        with self._way_in(file.name) as drafts:
            if self.has(file.name) and not again:  # another process was faster
                return False
            sha256 = published(file.name)[0] if anew else self.expected_sha256(file.name)
            arrived = self._bring(file, drafts / file.name, sha256)
            # Recorded first: a file without a record could be exchanged, a record without a file only be asked for.
            self.lock_file.set(file.name, record(arrived.sha256, arrived.bytes, arrived.source))
            self._place(arrived)
        log.info("model_file_fetched", file=file.name, bytes=arrived.bytes, source=arrived.source)
        return True

    def seal(self, name: str) -> bool:
        """Replace a plain file by its sealed form; whether there was one. Raises SealError, InfrastructureError."""
        plain = self.plain_path(name)
        with self._lock(name):
            if not plain.is_file():
                return False
            self._seal(plain, name, file_sha256(plain))
            with local_errors():
                plain.unlink()
                sync_directory(self.folder)
        return True

    @contextmanager
    def opened(self, names: Iterable[str]) -> Iterator[Path]:
        """A folder in which all of these files, and the lists, are plain; only while the block runs, if one is sealed.

        Raises SealError and InfrastructureError.
        """
        wanted = tuple(dict.fromkeys((*names, *LISTS)))
        sealed = [name for name in wanted if self.is_sealed(name)]
        if not sealed:
            yield self.folder
            return
        beside = [self.plain_path(name) for name in wanted if self.plain_path(name).is_file()]
        with self.vault.opened([self.sealed_path(name) for name in sealed], beside) as folder:
            yield folder

    def _bring(self, file: ModelFile, target: Path, sha256: str | None) -> FetchedFile:
        refusal: NotServedError | None = None
        for url in file.urls:
            try:
                return fetch_model_file(url, target, self._network, sha256=sha256, mirrors=self.options.mirrors)
            except NotServedError as error:
                refusal = error
        raise refusal or ValueError("a file without an address")

    def _place(self, arrived: FetchedFile) -> None:
        name = arrived.path.name
        if self._is_to_be_sealed(name):
            self._seal(arrived.path, name, arrived.sha256)
            obsolete = [arrived.path, self.plain_path(name)]
        else:
            with local_errors():
                sync_file(arrived.path)
                os.replace(arrived.path, self.plain_path(name))
            obsolete = [self.sealed_path(name)]
        with local_errors():
            for path in obsolete:
                path.unlink(missing_ok=True)
            sync_directory(self.folder)

    def _seal(self, plain: Path, name: str, sha256: str) -> None:
        draft = self.folder / INCOMING / f"{name}{SUFFIX}"
        self.vault.seal(plain, draft, name)
        # Soon it will be all that is left.
        if self.vault.sha256(draft, name) != sha256:
            raise DecryptionError(f"the sealed form of {name} does not give its content back: the plain file is kept")
        with local_errors():
            os.replace(draft, self.sealed_path(name))
            sync_directory(self.folder)

    def _is_to_be_sealed(self, name: str) -> bool:
        return self.options.seals and name not in LISTS

    @contextmanager
    def _way_in(self, name: str) -> Iterator[Path]:
        """The folder in which ``name`` arrives, while no other process fetches it; in memory if it is to be sealed."""
        with self._lock(name):
            yield self.vault.incoming(self.folder) if self._is_to_be_sealed(name) else self.folder / INCOMING

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        lock = locked_folder(
            self.folder / INCOMING / f"{name}.lock", on_wait=lambda: log.info("model_file_awaited", file=name)
        )
        try:
            with ExitStack() as stack:
                with local_errors():
                    stack.enter_context(lock)
                yield
        finally:
            with suppress(OSError):  # other files are on their way, or half of one lies there until the next try
                (self.folder / INCOMING).rmdir()
