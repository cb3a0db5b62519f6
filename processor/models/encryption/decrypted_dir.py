"""Where sealed files lie decrypted while they are loaded: in memory, for this user alone, and not for long."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.files import local_errors
from pipeline.service.logs import get_logger
from processor.models.errors import DecryptionError
from processor.models.file_lock import locked_folder

log = get_logger(__name__)

_IN_MEMORY = ("tmpfs", "ramfs")
_MOUNTS = Path("/proc/self/mountinfo")


def user_dir(base: Path) -> Path:
    """This user's folder in MODEL_PLAIN_DIR, made if need be.

    Raises SealError if it is not in memory, or not this user's alone, and InfrastructureError.
    """
    require_memory(base)
    folder = base / f"uvr-models-{os.getuid()}"
    with local_errors():
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    # MODEL_PLAIN_DIR is often open to everybody, and the name can be guessed.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise DecryptionError("the folder for decrypted models in MODEL_PLAIN_DIR belongs to, or is open to, others")
    return folder


def require_memory(path: Path) -> None:
    """Raise SealError unless ``path`` is in a file system that lives in memory.

    On a disk the decrypted model would stay behind, readable, after its file is gone: that is what sealing prevents,
    so there is no falling back to one.
    """
    kind = _file_system(path)
    if kind not in _IN_MEMORY:
        raise DecryptionError(f"MODEL_PLAIN_DIR must be in memory, on a tmpfs: it is {kind or 'not there'}")


def _file_system(path: Path) -> str | None:
    try:
        device = path.stat().st_dev
        mounts = _MOUNTS.read_text().splitlines()
    except OSError:
        return None
    number = f"{os.major(device)}:{os.minor(device)}"
    for mount in mounts:
        before, _, after = mount.partition(" - ")
        if before.split()[2] == number:
            return after.split()[0]
    return "unknown"


class DecryptedDir:
    """A folder of this process in MODEL_PLAIN_DIR. Its path stays the same; it is empty but within ``filled``."""

    def __init__(self, base: Path) -> None:
        """Also removes what processes that were killed have left. Raises SealError and InfrastructureError."""
        root = user_dir(base)
        with local_errors(), locked_folder(root / "lock"):
            _sweep(root)
            self.path = Path(tempfile.mkdtemp(prefix="loading-", dir=root))
            # Held as long as this process lives; whoever can take it knows that nobody needs the folder any more.
            self._mine = _lock(self.path)

    @contextmanager
    def filled(self) -> Iterator[Path]:
        """The folder; whatever is put there is gone afterwards."""
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
        os.close(self._mine)


def remove_leftovers(base: Path) -> None:
    """Remove what processes of this user that are gone have left. Raises SealError and InfrastructureError."""
    if (base / f"uvr-models-{os.getuid()}").exists():
        root = user_dir(base)
        with local_errors(), locked_folder(root / "lock"):
            _sweep(root)


def _sweep(root: Path) -> None:
    for folder in root.glob("loading-*"):
        try:
            os.close(_lock(folder))
        except BlockingIOError:
            continue
        shutil.rmtree(folder)
        log.warning("decrypted_models_removed", folder=folder.name)


def _lock(folder: Path) -> int:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
