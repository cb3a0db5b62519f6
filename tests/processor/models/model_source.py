"""Model files on a server, and stores that fetch them."""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

from pipeline.download import UrlGuard
from processor.models import ModelDownloads, ModelStore, StoreOptions
from tests.support.source_server import Behaviour, Exchange

ANYWHERE = UrlGuard(allow_private=True)
DEADLINE = 20.0


def store_in(folder: Path, **options: object) -> ModelStore:
    """A store that may fetch from this machine."""
    return ModelStore(folder, ModelDownloads(ANYWHERE), StoreOptions(**options))  # type: ignore[arg-type]


def visible(folder: Path) -> list[str]:
    """What a user of the folder sees, in order."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


class Ranged:
    """A file in ranges, with an ETag. After ``hold_after`` bytes in all it keeps every connection open and silent."""

    def __init__(self, data: bytes, hold_after: int | None = None) -> None:
        self._data = data
        self._left = hold_after
        self._lock = threading.Lock()
        self.sent = 0

    def release(self) -> None:
        """Hold nothing back from now on."""
        self._left = None

    def __call__(self, exchange: Exchange) -> None:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", exchange.request.headers.get("range", ""))
        start, end = (int(match[1]), int(match[2] or len(self._data) - 1)) if match else (0, len(self._data) - 1)
        end = min(end, len(self._data) - 1)
        headers = {"Content-Length": str(end + 1 - start), "ETag": '"one"', "Accept-Ranges": "bytes"}
        if match:
            headers["Content-Range"] = f"bytes {start}-{end}/{len(self._data)}"
        exchange.head(206 if match else 200, headers)
        for position in range(start, end + 1, 65536):
            piece = self._data[position : min(position + 65536, end + 1)]
            with self._lock:
                held = self._left is not None and self.sent >= self._left
                self.sent += 0 if held else len(piece)
            if held:
                exchange.hold()
                return
            exchange.send(piece)


def served(data: bytes) -> Behaviour:
    """``data``, properly, in ranges."""
    return Ranged(data)


def wait_for_pieces(target: Path) -> int:
    """Until the journal of a download into ``target`` knows of a piece; how many bytes it knows of."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        if known := _journalled(target):
            return known
        time.sleep(0.05)
    raise AssertionError("nothing was put down in the journal")


def _journalled(target: Path) -> int:
    """From a copy: the download has the journal for itself."""
    with tempfile.TemporaryDirectory() as folder:
        for path in target.parent.glob(f"{target.name}.journal*"):
            shutil.copy(path, folder)
        copy = Path(folder) / f"{target.name}.journal"
        if not copy.exists():
            return 0
        try:
            with closing(sqlite3.connect(copy)) as database:
                return int(database.execute("SELECT coalesce(sum(end - start), 0) FROM piece").fetchone()[0])
        except sqlite3.Error:  # copied in the middle of a change
            return 0
