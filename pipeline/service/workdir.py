"""Working files of running jobs: one locked folder per process, one subfolder per job, cleanup after a crash."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.files import disk_error, system_reason
from pipeline.service.logs import get_logger

log = get_logger(__name__)

_PREFIX = "job-files-"
_LOCK = "lock"
#: Held while a process cleans up and creates its own folder, which another one could otherwise find unlocked.
_ROOT_LOCK = ".job-files.lock"


class WorkDir:
    """A folder of this process below ``root``, locked as long as the process lives.

    Raises InfrastructureError if the folder cannot be created.
    """

    def __init__(self, root: Path) -> None:
        try:
            root.mkdir(parents=True, exist_ok=True)
            with _lock(root / _ROOT_LOCK, wait=True):
                for folder in root.glob(f"{_PREFIX}*"):
                    # An unlocked folder belongs to a process that ended without deleting it.
                    with suppress(OSError), _lock(folder / _LOCK):
                        shutil.rmtree(folder)
                        log.info("stale_workdir_removed", folder=folder.name)
                self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root)).resolve()
                self._lock = _lock(self.path / _LOCK)
        except OSError as error:
            raise InfrastructureError(
                f"TEMP_DIR cannot be used: {system_reason(error)}", code=ErrorCode.STORAGE_UNAVAILABLE
            ) from error

    @contextmanager
    def job(self) -> Iterator[Path]:
        """Yield a new empty folder; leaving the block deletes it. Callers use only their own file names in it."""
        try:
            folder = Path(tempfile.mkdtemp(prefix="job-", dir=self.path))
        except OSError as error:
            raise disk_error(error) from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Delete the folder and release its lock."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _lock(path: Path, *, wait: bool = False) -> IO[str]:
    """Open and lock the file until it is closed. Raises BlockingIOError if another process holds the lock."""
    handle = path.open("a")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        handle.close()
        raise
    return handle
