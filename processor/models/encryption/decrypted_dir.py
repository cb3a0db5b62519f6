"""A folder in memory for decrypted files: for this user only, and only while a model is loaded."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.files import local_errors
from pipeline.service.logs import get_logger
from processor.models.errors import DecryptionError
from processor.models.file_lock import exclusive_lock

log = get_logger(__name__)

_IN_MEMORY = ("tmpfs", "ramfs")
_MOUNTS = Path("/proc/self/mountinfo")


def user_dir(base: Path) -> Path:
    """Return this user's folder in MODEL_PLAIN_DIR; create it if necessary.

    Raises DecryptionError if it is not in memory, or accessible to other users, and InfrastructureError.
    """
    require_memory(base)
    folder = base / f"uvr-models-{os.getuid()}"
    with local_errors():
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    # MODEL_PLAIN_DIR is often writable for all users, and the name can be guessed.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise DecryptionError("the folder for decrypted models in MODEL_PLAIN_DIR belongs to, or is open to, others")
    return folder


def require_memory(path: Path) -> None:
    """Raise DecryptionError unless ``path`` is in a file system in memory.

    On a disk, the content of a decrypted model would remain readable after its file is removed. Encryption must prevent
    that, so there is no fallback to a disk.
    """
    kind = "not there"
    with suppress(OSError):
        device = path.stat().st_dev
        number = f"{os.major(device)}:{os.minor(device)}"
        kind = "unknown"
        for mount in _MOUNTS.read_text().splitlines():
            before, _, after = mount.partition(" - ")
            if before.split()[2] == number:
                kind = after.split()[0]
                break
    if kind not in _IN_MEMORY:
        raise DecryptionError(f"MODEL_PLAIN_DIR must be in memory, on a tmpfs: it is {kind}")


class DecryptedDir:
    """A folder of this process in MODEL_PLAIN_DIR. Its path stays the same; it is empty except within ``filled``."""

    def __init__(self, base: Path) -> None:
        """Create the folder; remove those of killed processes. Raises DecryptionError and InfrastructureError."""
        root = user_dir(base)
        with local_errors(), exclusive_lock(root / "lock"):
            _remove_unlocked(root)
            self.path = Path(tempfile.mkdtemp(prefix="loading-", dir=root))
            # Held while this process lives. Once another process can take it, the folder is a leftover.
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            lock_descriptor(self._lock)

    @contextmanager
    def filled(self) -> Iterator[Path]:
        """Yield the folder; remove its files when the block ends."""
        try:
            yield self.path
        finally:
            with local_errors():
                for entry in self.path.iterdir():
                    entry.unlink(missing_ok=True)

    def require_room(self, size: int) -> None:
        """Raise InfrastructureError (``disk_full``) unless ``size`` more bytes fit."""
        with local_errors():
            free = shutil.disk_usage(self.path).free
        if size > free:
            raise InfrastructureError(
                f"MODEL_PLAIN_DIR has room for {free} bytes, and a decrypted model has {size}", code=ErrorCode.DISK_FULL
            )

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def remove_leftovers(base: Path) -> None:
    """Remove the folders of this user's killed processes. Raises DecryptionError and InfrastructureError."""
    if (base / f"uvr-models-{os.getuid()}").exists():
        root = user_dir(base)
        with local_errors(), exclusive_lock(root / "lock"):
            _remove_unlocked(root)


def _remove_unlocked(root: Path) -> None:
    for folder in root.glob("loading-*"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if lock_descriptor(descriptor, blocking=False):
                shutil.rmtree(folder)
                log.warning("decrypted_models_removed", folder=folder.name)
        finally:
            os.close(descriptor)
