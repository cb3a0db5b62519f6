"""The folder of model files, which several processes may share: download, install, encrypt and open files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from config import ModelSettings
from pipeline.errors import ErrorCode, PermanentError
from pipeline.files import file_sha256, local_errors, sync_directory, sync_file
from pipeline.service.logs import get_logger, loggable_url
from processor.models.catalogue import ModelFile
from processor.models.download import ModelDownloads, fetch_model_file
from processor.models.encryption import SUFFIX
from processor.models.encryption.encrypted_files import EncryptedFiles
from processor.models.errors import DecryptionError, NotServedError, OfflineError
from processor.models.file_lock import exclusive_lock
from processor.models.lockfile import LockFile, Record
from processor.models.model_lists import LISTS
from processor.models.published_hashes import published

log = get_logger(__name__)

#: The folder of unfinished downloads with their state. It does not exist while nothing is downloaded.
INCOMING = ".incoming"


class ModelStore:
    """The folder of models, MODEL_FILE_DIR, which must exist. Safe for several processes, not for several threads."""

    def __init__(self, settings: ModelSettings, network: ModelDownloads, key: bytes | None = None) -> None:
        """``key``: that of encrypted files; None: it is read from the settings when it is needed."""
        self.folder = settings.model_dir.absolute()
        self._settings = settings
        self.lock_file = LockFile(self.folder)
        self.encrypted_files = EncryptedFiles(settings, key)
        self._network = network

    def plain_path(self, name: str) -> Path:
        """Return the path of the file's plain form."""
        return self.folder / name

    def sealed_path(self, name: str) -> Path:
        """Return the path of the file's encrypted form."""
        return self.folder / f"{name}{SUFFIX}"

    def has(self, name: str) -> bool:
        """Return True if the file is present, plain or encrypted."""
        return self.plain_path(name).is_file() or self.sealed_path(name).is_file()

    def is_sealed(self, name: str) -> bool:
        """Return True if the file is present in encrypted form only."""
        return not self.plain_path(name).is_file() and self.sealed_path(name).is_file()

    def bytes(self, name: str) -> int:
        """Return the size of the file, encrypted or plain; 0 if it is missing."""
        with suppress(OSError):
            return (self.sealed_path(name) if self.is_sealed(name) else self.plain_path(name)).stat().st_size
        return 0

    def expected_sha256(self, name: str) -> str | None:
        """Return the published SHA-256, else the one recorded at the first download; None if neither is known."""
        entry = self.lock_file.records().get(name)
        return published(name)[0] or (entry.sha256 if entry else None)

    def sha256(self, name: str) -> str:
        """Return the SHA-256 of the plain content. Raises DecryptionError and InfrastructureError."""
        if self.is_sealed(name):
            return self.encrypted_files.sha256(self.sealed_path(name), name)
        return file_sha256(self.plain_path(name))

    def require_allowed(self, name: str) -> None:
        """Raise PermanentError (``model_not_allowed``) unless jobs may use the model ``name``."""
        if not self._settings.allows(name):
            raise PermanentError(f"the model {name} is not available on this service", code=ErrorCode.MODEL_NOT_ALLOWED)

    def pull(self, file: ModelFile, *, again: bool = False, update: bool = False) -> bool:
        """Download ``file`` if it is missing. Return True if it was downloaded.

        ``again``: replace a file that is present. ``update``: replace it, and accept any content unless a hash is
        published.

        Raises NotServedError if none of its addresses serves it, TransientError (``source_corrupt`` if the content is
        not the expected one, ``model_unavailable`` offline, other codes of the download), InfrastructureError and
        CancelledError. The messages name the file and its address: they are for the operator.
        """
        replace = again or update
        if self.has(file.name) and not replace:
            return False
        if self._settings.offline:
            raise OfflineError(file.name, " or ".join(map(loggable_url, file.urls)))
        with self._lock(file.name):
            if self.has(file.name) and not replace:  # another process has downloaded it meanwhile
                return False
            # A file to be encrypted is downloaded to memory.
            drafts = self.folder / INCOMING
            if self._is_to_be_sealed(file.name):
                drafts = self.encrypted_files.incoming(self.folder)
            sha256 = published(file.name)[0] if update else self.expected_sha256(file.name)
            fetched = self._download(file, drafts / file.name, sha256)
            # Record first: a file without a record could be exchanged unnoticed; a record without a file is harmless.
            self.lock_file.set(file.name, fetched)
            self._install(drafts / file.name, fetched.sha256)
        log.info("model_file_fetched", file=file.name, bytes=fetched.bytes, source=fetched.source)
        if sha256 is None:
            log.warning("model_file_trusted", file=file.name, sha256=fetched.sha256, source=fetched.source)
        return True

    def _download(self, file: ModelFile, target: Path, sha256: str | None) -> Record:
        refusal: NotServedError | None = None
        for url in file.urls:
            try:
                return fetch_model_file(url, target, self._network, sha256=sha256, mirrors=self._settings.mirrors)
            except NotServedError as error:
                refusal = error
        raise refusal or ValueError("a file without an address")

    def _install(self, draft: Path, sha256: str) -> None:
        name = draft.name
        if self._is_to_be_sealed(name):
            self._encrypt(draft, name, sha256)
            obsolete = [draft, self.plain_path(name)]
        else:
            with local_errors():
                sync_file(draft)
                os.replace(draft, self.plain_path(name))
            obsolete = [self.sealed_path(name)]
        with local_errors():
            for path in obsolete:
                path.unlink(missing_ok=True)
            sync_directory(self.folder)

    def seal(self, name: str) -> bool:
        """Replace a plain file by its encrypted form. Return False if there was none.

        Raises DecryptionError and InfrastructureError.
        """
        plain = self.plain_path(name)
        with self._lock(name):
            if not plain.is_file():
                return False
            self._encrypt(plain, name, file_sha256(plain))
            with local_errors():
                plain.unlink()
                sync_directory(self.folder)
        return True

    def _encrypt(self, plain: Path, name: str, sha256: str) -> None:
        draft = self.folder / INCOMING / f"{name}{SUFFIX}"
        self.encrypted_files.encrypt(plain, draft, name)
        # Verify it before the plain file is removed.
        if self.encrypted_files.sha256(draft, name) != sha256:
            raise DecryptionError(f"the sealed form of {name} does not give its content back: the plain file is kept")
        with local_errors():
            os.replace(draft, self.sealed_path(name))
            sync_directory(self.folder)

    def _is_to_be_sealed(self, name: str) -> bool:
        return self._settings.encrypts and name not in LISTS

    @contextmanager
    def opened(self, names: Iterable[str]) -> Iterator[Path]:
        """Yield a folder with the plain forms of these files.

        Decrypted files are removed when the block ends. Raises DecryptionError and InfrastructureError.
        """
        wanted = tuple(dict.fromkeys(names))
        sealed = [name for name in wanted if self.is_sealed(name)]
        if not sealed:
            yield self.folder
            return
        plain = [self.plain_path(name) for name in wanted if self.plain_path(name).is_file()]
        with self.encrypted_files.opened([self.sealed_path(name) for name in sealed], plain) as folder:
            yield folder

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        lock = exclusive_lock(
            self.folder / INCOMING / f"{name}.lock", on_wait=lambda: log.info("model_file_awaited", file=name)
        )
        try:
            with ExitStack() as stack:
                with local_errors():
                    stack.enter_context(lock)
                yield
        finally:
            with suppress(OSError):  # not empty: other downloads run, or an unfinished one remains for the next attempt
                (self.folder / INCOMING).rmdir()
