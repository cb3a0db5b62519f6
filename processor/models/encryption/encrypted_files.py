"""The key, the sealed files and the folder in memory where they are opened: what a store needs of encryption."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path

from pipeline.files import local_errors
from processor.models.encryption import decrypted_dir, key
from processor.models.errors import DecryptionError
from processor.models.options import SUFFIX, StoreOptions


class EncryptedFiles:
    """Seals and opens files. The key is asked for at the first of them, and kept in memory."""

    def __init__(self, options: StoreOptions) -> None:
        self._options = options

    def seal(self, source: Path, target: Path, name: str) -> None:
        """Write the sealed form of ``source``, durably. Raises SealError and InfrastructureError."""
        from processor.models.encryption.cipher import encrypt  # cryptography: for those alone who seal

        key = self._key
        with local_errors(), source.open("rb") as content, target.open("wb") as file:
            encrypt(content, file, key, name)
            file.flush()
            os.fsync(file.fileno())

    def sha256(self, path: Path, name: str) -> str:
        """The SHA-256 of what is sealed in ``path``, in hexadecimal; nothing is written. Raises as ``encrypt``."""
        digest = hashlib.sha256()
        for chunk in self._chunks(path, name):
            digest.update(chunk)
        return digest.hexdigest()

    def plain_bytes(self, path: Path) -> int:
        """How large what is sealed in ``path`` is. Raises OSError."""
        from processor.models.encryption.cipher import decrypted_size

        return decrypted_size(path.stat().st_size)

    @contextmanager
    def opened(self, sealed: Sequence[Path], beside: Sequence[Path]) -> Iterator[Path]:
        """A folder in memory with the content of ``sealed`` and links to ``beside``; always the same one.

        Empty again afterwards. Raises as ``encrypt``.
        """
        with ExitStack() as stack:
            with local_errors():
                folder = stack.enter_context(self._folder.filled())
                for path in sealed:
                    self._open(path, folder / path.name.removesuffix(SUFFIX))
                for path in beside:
                    (folder / path.name).symlink_to(path.absolute())
            yield folder

    def incoming(self, destination: Path) -> Path:
        """Where a file that will be sealed into ``destination`` may lie before, made if need be. Raises as ``encrypt``."""
        number = hashlib.sha256(os.fsencode(destination.absolute())).hexdigest()[:16]
        folder = decrypted_dir.user_dir(self._options.plain_dir) / f"incoming-{number}"
        with local_errors():
            folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def sweep(self) -> None:
        """Remove what killed processes have left decrypted."""
        with suppress(DecryptionError):  # where none can be kept there is none
            decrypted_dir.remove_leftovers(self._options.plain_dir)

    def close(self) -> None:
        """Remove the folder in memory, if there is one."""
        if "_folder" in vars(self):
            self._folder.close()
            del self._folder

    def _open(self, path: Path, target: Path) -> None:
        self._folder.require_room(self.plain_bytes(path))
        with target.open("xb") as file:
            for chunk in self._chunks(path, target.name):
                file.write(chunk)

    def _chunks(self, path: Path, name: str) -> Iterator[bytes]:
        from processor.models.encryption.cipher import decrypt

        with local_errors(), path.open("rb") as file:
            yield from decrypt(file, self._key, name)

    @cached_property
    def _key(self) -> bytes:
        return key.read_key(self._options)

    @cached_property
    def _folder(self) -> decrypted_dir.DecryptedDir:
        return decrypted_dir.DecryptedDir(self._options.plain_dir)
