"""Working files of running jobs: one locked folder per process, gone with the job, swept up after a crash."""

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
#: Held while a process sweeps and makes its own folder, which another one would otherwise find without its lock.
_ROOT_LOCK = ".job-files.lock"


class WorkDir:
    """A folder of this process below ``root``, locked for as long as the process lives.

    Raises InfrastructureError if it cannot be made.
    """

    def __init__(self, root: Path) -> None:
        try:
            root.mkdir(parents=True, exist_ok=True)
            with _locked(root / _ROOT_LOCK, wait=True):
                _sweep(root)
                self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root)).resolve()
                self._lock = _locked(self.path / _LOCK)
        except OSError as error:
            raise InfrastructureError(
                f"TEMP_DIR cannot be used: {system_reason(error)}", code=ErrorCode.STORAGE_UNAVAILABLE
            ) from error

    @contextmanager
    def job(self) -> Iterator[Path]:
        """A new empty folder, removed with all it holds when the block is left. No name in it comes from outside."""
        try:
            folder = Path(tempfile.mkdtemp(prefix="job-", dir=self.path))
        except OSError as error:
            raise disk_error(error) from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _locked(path: Path, *, wait: bool = False) -> IO[str]:
    """The file, open and locked until it is closed. Raises BlockingIOError if another process holds the lock."""
    handle = path.open("a")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        handle.close()
        raise
    return handle


def _sweep(root: Path) -> None:
    """Remove the folders of processes that did not live to do it."""
    for folder in root.glob(f"{_PREFIX}*"):
        with suppress(OSError), _locked(folder / _LOCK):
            shutil.rmtree(folder)
            log.info("stale_work_removed", folder=folder.name)
