"""Atomic creation and removal of the local store's files, safe with concurrent processes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import ErrorCode, PermanentError
from pipeline.files import make_folders, sync_directory

#: Maximum number of attempts when a concurrent delete prunes the folder that has just been created.
_MAX_PRUNE_RACES = 100
#: Errors of file systems without hard links.
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


def rename_if_absent(draft: Path, path: Path) -> None:
    """Rename ``draft`` to ``path`` unless a file exists there.

    If several callers do so concurrently, one succeeds, because a hard link never replaces a file. On a file system
    without hard links the check and the rename are two steps, so two concurrent callers may both succeed.
    """
    try:
        os.link(draft, path)
    except FileExistsError:
        if path.is_dir():
            raise
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if not path.exists():
            os.replace(draft, path)


def publish_draft(draft: Path, path: Path, rename: Callable[[Path, Path], None]) -> None:
    """Give a finished draft its final name, creating the folders; returns when the name survives a power failure."""
    renamed = False
    for _ in range(_MAX_PRUNE_RACES):
        try:
            make_folders(path.parent)
            rename(draft, path)
            renamed = True
            sync_directory(path.parent)
            return
        except FileNotFoundError:
            # A concurrent delete has pruned the folder, after the rename together with the object.
            if renamed:
                return
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise PermanentError(
                "the object key conflicts with a folder of another key", code=ErrorCode.STORAGE_REFUSED
            ) from None
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def prune_empty_folders(folder: Path, root: Path) -> None:
    """Remove ``folder`` and its parents below ``root`` as far as they are empty."""
    while folder != root:
        try:
            folder.rmdir()
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return
            raise
        folder = folder.parent
