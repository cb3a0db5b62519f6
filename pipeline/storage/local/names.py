"""How the local store's files get their names and lose them, while other processes do the same beside them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import ErrorCode, PermanentError
from pipeline.files import sync_directory

#: How often a name is given again when a concurrent delete prunes the folder that has just been made for it.
_PRUNE_RACES = 100
#: What file systems without hard links answer to one.
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})

#: Gives a finished draft its name.
Naming = Callable[[Path, Path], None]


def replace(draft: Path, path: Path) -> None:
    """Give ``draft`` the name ``path``, whoever has it."""
    os.replace(draft, path)


def claim(draft: Path, path: Path) -> None:
    """Give ``draft`` the name ``path`` unless another file has it.

    Of several at once one gets it: a hard link never replaces. Where the file system has none, looking and naming are
    two steps, and two that look within the same moment both believe to be the first.
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


def give_name(draft: Path, path: Path, naming: Naming) -> None:
    """Name a finished draft, in folders that are made for it; returns when the name survives a power cut."""
    named = False
    for _ in range(_PRUNE_RACES):
        try:
            _make_folders(path.parent)
            naming(draft, path)
            named = True
            sync_directory(path.parent)
            return
        except FileNotFoundError:
            # A concurrent delete has pruned the folder, and if it had its name already, the object with it.
            if named:
                return
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise PermanentError(
                "the object key is the folder of another one", code=ErrorCode.STORAGE_REFUSED
            ) from None
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def prune(folder: Path, root: Path) -> None:
    """Remove ``folder`` and the ones above it that are empty, up to the root."""
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


def _make_folders(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_directory(folder.parent)
