"""Whether a file would survive a power failure, by the order in which its process synced files and folders.

A file is durable when its content was synced before it got its name, and the folder that has the name was synced
afterwards. The same goes for each folder on the way that was created meanwhile.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

_NAMING = {"os.mkdir": 0, "os.rename": 1, "os.link": 1}
"""Audit events that give a file or folder a name, with the position of the name in their arguments."""


@dataclass
class SyncLog:
    """The names given and the syncs made while it was recorded, in their order."""

    _events: list[tuple[str, object]] = field(default_factory=list)

    def assert_durable(self, path: Path) -> None:
        """Raise AssertionError unless the file and its new folders would survive a power failure."""
        named = self._last(("named", path))
        assert named >= 0, f"{path} got no name while this was recorded"
        status = path.stat()
        assert ("synced", (status.st_dev, status.st_ino, status.st_mtime_ns)) in self._events[:named], (
            f"the content of {path} was not synced before it got its name"
        )
        self.assert_folder_durable(path)

    def assert_folder_durable(self, path: Path) -> None:
        """Raise AssertionError unless the name of ``path`` and of each new folder above would survive."""
        for entry in (path, *path.parents):
            named = self._last(("named", entry))
            folder = entry.parent.stat()
            assert named < 0 or ("folder synced", (folder.st_dev, folder.st_ino)) in self._events[named:], (
                f"{entry.parent} was not synced after {entry.name} got its name"
            )

    def assert_removal_durable(self, path: Path) -> None:
        """Raise AssertionError if the file could come back after a power failure."""
        removed = self._last(("removed", path))
        folder = path.parent.stat()
        assert removed >= 0, f"{path} was not removed"
        assert ("folder synced", (folder.st_dev, folder.st_ino)) in self._events[removed:], (
            f"{path.parent} was not synced after {path.name} was removed"
        )

    def forget(self) -> None:
        """Begin anew."""
        self._events.clear()

    def _last(self, event: tuple[str, object]) -> int:
        return max((index for index, other in enumerate(self._events) if other == event), default=-1)

    def add_audit_event(self, event: str, arguments: tuple[object, ...]) -> None:
        """Record a name that is about to be given or removed, unless the call will fail because it is taken."""
        if event in _NAMING:
            path = Path(os.fsdecode(arguments[_NAMING[event]]))  # type: ignore[arg-type]
            if event == "os.rename" or not path.exists():
                self._events.append(("named", path))
        elif event == "os.remove":
            self._events.append(("removed", Path(os.fsdecode(arguments[0]))))  # type: ignore[arg-type]

    def add_sync(self, descriptor: int) -> None:
        """Record that the file or folder has been synced."""
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            self._events.append(("folder synced", (status.st_dev, status.st_ino)))
        else:
            self._events.append(("synced", (status.st_dev, status.st_ino, status.st_mtime_ns)))


_recording: list[SyncLog] = []


@contextmanager
def recorded_syncs(monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncLog]:
    """Record what this process names and syncs within the block. Everything is really done."""
    _install_hook()
    log, fsync = SyncLog(), os.fsync

    def recorded(descriptor: int) -> None:
        fsync(descriptor)
        log.add_sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", recorded)
        _recording.append(log)
        try:
            yield log
        finally:
            _recording.remove(log)


def _install_hook(installed: list[bool] = []) -> None:  # noqa: B006  the list is the memory of the function
    """Audit hooks cannot be removed: install one for all tests of the process, which is idle between them."""
    if not installed:
        installed.append(True)
        sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    for log in _recording:
        log.add_audit_event(event, arguments)
