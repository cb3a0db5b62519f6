"""Model files on a server, and stores that fetch them."""

from __future__ import annotations

import hashlib
import json
import re
import ssl
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trustme

from config import ModelSettings
from pipeline.download import ConnectionOptions, UrlGuard
from processor.models import ModelDownloads, ModelStore
from processor.models.lockfile import LockFile, record
from tests.support.source_server import Behaviour, Exchange, SourceServer

ANYWHERE = UrlGuard(allow_private=True)
DEADLINE = 20.0


def store_in(folder: Path, **settings: Any) -> ModelStore:
    """Return a store that may download from this machine."""
    return ModelStore(ModelSettings(model_dir=folder, **settings), ModelDownloads(ANYWHERE))


class SecureSource(SourceServer):
    """A server with TLS, as models without a known hash require, and stores that trust it."""

    def __init__(self, ca_bundle: Path) -> None:
        """``ca_bundle``: the file for the certificate of its authority."""
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.cert_pem.write_to_path(str(ca_bundle))
        self.ca_bundle = ca_bundle
        super().__init__(tls=context)

    def store(self, folder: Path, **settings: Any) -> ModelStore:
        """Return a store that may download from this server."""
        return secure_store(folder, self.ca_bundle, **settings)


def secure_store(folder: Path, ca_bundle: Path, **settings: Any) -> ModelStore:
    """Return a store that may download from the ``SecureSource`` with this certificate."""
    downloads = ModelDownloads(ANYWHERE, ConnectionOptions(ca_bundle=ca_bundle))
    return ModelStore(ModelSettings(model_dir=folder, **settings), downloads)


def record_hashes(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Record the hashes of files, by name, so that a server without TLS may serve them."""
    for name, content in contents.items():
        LockFile(folder).set(name, record(hashlib.sha256(content).hexdigest(), len(content), "elsewhere"))


def visible(folder: Path) -> list[str]:
    """Return the names of the folder that are not hidden, sorted."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


class Ranged:
    """Serves a file in ranges, with an ETag. After ``hold_after`` bytes in total, every connection stalls."""

    def __init__(self, data: bytes, hold_after: int | None = None) -> None:
        self._data = data
        self._bytes_left = hold_after
        self._lock = threading.Lock()
        self.sent = 0

    def release(self) -> None:
        """Stop stalling connections."""
        self._bytes_left = None

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
                held = self._bytes_left is not None and self.sent >= self._bytes_left
                self.sent += 0 if held else len(piece)
            if held:
                exchange.hold()
                return
            exchange.send(piece)


def served(data: bytes) -> Behaviour:
    """Serve ``data`` in ranges."""
    return Ranged(data)


def wait_for_pieces(target: Path) -> int:
    """Wait until the journal of a download into ``target`` has a piece; return the number of its bytes."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        if known := _journaled_bytes(target):
            return known
        time.sleep(0.05)
    raise AssertionError("the journal has no piece")


def _journaled_bytes(target: Path) -> int:
    try:
        _, *lines = target.with_name(f"{target.name}.journal").read_text().splitlines()
    except (FileNotFoundError, ValueError):  # not there yet, or still empty
        return 0
    return sum(end - start for start, end, _ in map(json.loads, lines))
