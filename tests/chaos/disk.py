"""A small disk for working files, which can be filled to the last byte: a tmpfs.

It is mounted in a mount namespace of the driver's own, so that nothing of it is left when the driver has ended in
whatever way. That takes root, or a kernel that lets every user have namespaces.
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
"""Bytes: enough for the songs that one worker has in hand."""

_FILLER = "filler"
_PIECES = (1024 * 1024, 4096)
_MARK = "CHAOS_MOUNT_NAMESPACE"


def in_namespace(module: str, arguments: Sequence[str]) -> str | None:
    """Go on in a mount namespace of its own: starts ``python -m module`` anew in this very process, or returns why not.

    Returns None where that has happened already.
    """
    if os.environ.get(_MARK):
        return None
    reason = "there is no command unshare"
    for command in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        if shutil.which(command[0]) is None:
            break
        reason = _refusal(command)
        if not reason:
            os.environ[_MARK] = "1"
            os.execvp(command[0], [*command, sys.executable, "-m", module, *arguments])
    return reason


def _refusal(command: Sequence[str]) -> str:
    """Why no tmpfs can be mounted in such a namespace; empty if it can."""
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder]
        tried = subprocess.run([*command, *mount], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else (tried.stderr.strip() or f"{command[0]} ended with {tried.returncode}")


class Disk:
    """A folder for working files, on a disk of its own if ``small``; else it cannot be filled."""

    def __init__(self, folder: Path, *, small: bool) -> None:
        """Raises CalledProcessError if nothing can be mounted."""
        self.folder = folder
        self.small = small
        folder.mkdir(parents=True)
        if small:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(folder)], check=True)

    def fill(self) -> None:
        """Take all that is free; to be called again and again, since others may free some meanwhile."""
        with (self.folder / _FILLER).open("ab", buffering=0) as filler:
            for size in _PIECES:
                _append(filler.fileno(), size)

    def free(self) -> None:
        """Give it back."""
        (self.folder / _FILLER).unlink(missing_ok=True)

    def files(self) -> list[str]:
        """What lies there, but locks, which belong to no job."""
        found = (path for path in self.folder.rglob("*") if path.suffix != ".lock")
        return sorted(str(path.relative_to(self.folder)) for path in found)

    def unmount(self) -> None:
        """Nobody may use it any more."""
        if self.small:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=False)


def _append(descriptor: int, size: int) -> None:
    piece = bytes(size)
    try:
        while os.write(descriptor, piece) == size:
            pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
