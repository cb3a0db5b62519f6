"""Encrypt model files, and decrypt them to memory with the operator's key."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path

from config import ModelSettings
from pipeline.files import local_errors
from processor.models.encryption import SUFFIX, decrypted_dir
from processor.models.encryption.key import read_key
from processor.models.errors import DecryptionError


class EncryptedFiles:
    """Encrypts and decrypts files. Unless ``key`` is given, it is read when the first file needs it, and kept."""

    def __init__(self, settings: ModelSettings, key: bytes | None = None) -> None:
        self._settings, self._given_key = settings, key
        self._plain_dir = settings.plain_dir.absolute()

    def encrypt(self, source: Path, target: Path, name: str) -> None:
        """Write the encrypted form of ``source``, durably. Raises DecryptionError and InfrastructureError."""
        from processor.models.encryption import cipher  # needs cryptography, which is optional without encryption

        key = self._key
        with local_errors(), source.open("rb") as content, target.open("wb") as file:
            cipher.encrypt(content, file, key, name)
            file.flush()
            os.fsync(file.fileno())

    def sha256(self, path: Path, name: str) -> str:
        """Return the SHA-256 (hexadecimal) of the content of ``path``; nothing is written. Raises as ``encrypt``."""
        digest = hashlib.sha256()
        for chunk in self._chunks(path, name):
            digest.update(chunk)
        return digest.hexdigest()

    def plain_bytes(self, path: Path) -> int:
        """Return the size of the content of ``path``. Raises OSError."""
        from processor.models.encryption.cipher import decrypted_size

        return decrypted_size(path.stat().st_size)

    @contextmanager
    def opened(self, sealed: Sequence[Path], plain: Sequence[Path]) -> Iterator[Path]:
        """Yield a folder in memory with the content of ``sealed`` and links to ``plain``; its path is always the same.

        The folder is emptied when the block ends. Raises as ``encrypt``.
        """
        with ExitStack() as stack:
            with local_errors():
                folder = stack.enter_context(self._folder.filled())
                for path in sealed:
                    target = folder / path.name.removesuffix(SUFFIX)
                    self._folder.require_room(self.plain_bytes(path))
                    with target.open("xb") as file:
                        for chunk in self._chunks(path, target.name):
                            file.write(chunk)
                for path in plain:
                    (folder / path.name).symlink_to(path.absolute())
            yield folder

    def incoming(self, destination: Path) -> Path:
        """Return the folder in memory for downloads that will be encrypted into ``destination``. Creates it.

        Raises as ``encrypt``.
        """
        number = hashlib.sha256(os.fsencode(destination.absolute())).hexdigest()[:16]
        folder = decrypted_dir.user_dir(self._plain_dir) / f"incoming-{number}"
        with local_errors():
            folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def sweep(self) -> None:
        """Remove the decrypted files of killed processes."""
        with suppress(DecryptionError):  # without a folder in memory there are no decrypted files
            decrypted_dir.remove_leftovers(self._plain_dir)

    def close(self) -> None:
        """Remove the folder in memory, if there is one."""
        if "_folder" in vars(self):
            self._folder.close()
            del self._folder

    def _chunks(self, path: Path, name: str) -> Iterator[bytes]:
        from processor.models.encryption.cipher import decrypt

        with local_errors(), path.open("rb") as file:
            yield from decrypt(file, self._key, name)

    @cached_property
    def _key(self) -> bytes:
        return self._given_key or read_key(self._settings)

    @cached_property
    def _folder(self) -> decrypted_dir.DecryptedDir:
        return decrypted_dir.DecryptedDir(self._plain_dir)
