"""A small disk for working files that can be filled completely: a tmpfs.

It is mounted in a private mount namespace of the driver, so that nothing remains however the driver ends. This requires
root, or a kernel that allows unprivileged user namespaces.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SIZE = 32 * 1024 * 1024
"""Bytes: enough for the songs that one worker processes at the same time."""

_FILLER = "filler"
_CHUNK_SIZES = (1024 * 1024, 4096)
_MARKER = "CHAOS_MOUNT_NAMESPACE"


def in_namespace(module: str, arguments: Sequence[str]) -> str | None:
    """Re-execute ``python -m module`` in a private mount namespace, in this process.

    Returns None if the process is in the namespace already, or the reason if it cannot be created.
    """
    if os.environ.get(_MARKER):
        return None
    reason = "there is no command unshare"
    for command in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        if shutil.which(command[0]) is None:
            break
        reason = _mount_error(command)
        if not reason:
            os.environ[_MARKER] = "1"
            os.execvp(command[0], [*command, sys.executable, "-m", module, *arguments])
    return reason


def _mount_error(command: Sequence[str]) -> str:
    """Return the error of mounting a tmpfs in such a namespace; empty if it works."""
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder]
        tried = subprocess.run([*command, *mount], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else (tried.stderr.strip() or f"{command[0]} ended with {tried.returncode}")


class Disk:
    """A folder for working files, on its own disk if ``small``; otherwise it cannot be filled."""

    def __init__(self, folder: Path, *, small: bool) -> None:
        """Raise CalledProcessError if the disk cannot be mounted."""
        self.folder = folder
        self.small = small
        folder.mkdir(parents=True)
        if small:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(folder)], check=True)

    def fill(self) -> None:
        """Fill the free space. Must be called repeatedly, since other processes may free space meanwhile."""
        with (self.folder / _FILLER).open("ab", buffering=0) as filler:
            for size in _CHUNK_SIZES:
                _append_until_full(filler.fileno(), size)

    def free(self) -> None:
        """Free the space again."""
        (self.folder / _FILLER).unlink(missing_ok=True)

    def empty(self) -> None:
        """Remove everything, as a cleaner of temporary files does."""
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def files(self) -> list[str]:
        """Return the relative paths of all files except locks, which belong to no job."""
        found = (path for path in self.folder.rglob("*") if path.suffix != ".lock")
        return sorted(str(path.relative_to(self.folder)) for path in found)

    def unmount(self) -> None:
        """Unmount the disk. No process may use it any more."""
        if self.small:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=False)


def _append_until_full(descriptor: int, size: int) -> None:
    chunk = bytes(size)
    try:
        while os.write(descriptor, chunk) == size:
            pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
