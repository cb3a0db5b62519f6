"""Working files of running jobs: one locked folder per process, one subfolder per job, cleanup after a crash."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pipeline.errors import CancelledError, ErrorCode, InfrastructureError
from pipeline.files import disk_error, local_errors, system_reason
from pipeline.service.logs import get_logger

log = get_logger(__name__)

_PREFIX = "job-files-"
_LOCK = "lock"
#: A file beside those of a job. If it is gone, something has removed files of the job as well.
_MARKER = "in-use"
#: Held while a process cleans up and creates its own folder, which another one could otherwise find unlocked.
_ROOT_LOCK = ".job-files.lock"


class WorkDir:
    """A folder of this process below ``root``, locked as long as the process lives.

    Raises InfrastructureError if the folder cannot be created.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._restoring = threading.Lock()
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
        """Yield a new empty folder; leaving the block deletes it. Raises as ``files_kept`` does."""
        try:
            self._restore()
            folder = Path(tempfile.mkdtemp(prefix="job-", dir=self.path))
        except OSError as error:
            raise disk_error(error) from error
        files = folder / "files"
        try:
            with local_errors():
                files.mkdir()
                (folder / _MARKER).touch()
            with files_kept(files):
                yield files
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _restore(self) -> None:
        """Create and lock the folder again if a cleaner of temporary files, for example, has removed it."""
        with self._restoring:
            if self._lock.closed or (self.path / _LOCK).exists():
                return
            log.warning("workdir_removed", folder=self.path.name)
            self._root.mkdir(parents=True, exist_ok=True)
            with _lock(self._root / _ROOT_LOCK, wait=True):
                self.path.mkdir(mode=0o700, exist_ok=True)
                lock = _lock(self.path / _LOCK)
            self._lock.close()
            self._lock = lock

    def close(self) -> None:
        """Delete the folder and release its lock."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


@contextmanager
def files_kept(folder: Path) -> Iterator[None]:
    """Raise InfrastructureError (code ``work_files_lost``) for an error of the block if files were removed meanwhile.

    ``folder``: of a job. Neither the job nor the disk is the cause then.
    """
    try:
        yield
    except CancelledError:
        raise
    except Exception as error:
        if (folder.parent / _MARKER).exists():
            raise
        raise InfrastructureError(
            "working files were removed while a job used them", code=ErrorCode.WORK_FILES_LOST
        ) from error


def _lock(path: Path, *, wait: bool = False) -> IO[str]:
    """Open and lock the file until it is closed. Raises BlockingIOError if another process holds the lock."""
    handle = path.open("a")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        handle.close()
        raise
    return handle
