"""The environment of a benchmark run: folder, source files, server."""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

from benchmarks.download.clients import Client, ClientLimits, Order, environment
from benchmarks.download.link import FAR
from benchmarks.download.measure import Measured, measure
from benchmarks.download.sandbox import has_namespaces, service, workspace, write_random
from benchmarks.download.server.profile import MIB, Profile

LOOPBACK: Final = "127.0.0.1"
NAME: Final = "song.wav"


@dataclass(frozen=True, slots=True)
class Laboratory:
    """Source files, their server, and folders for downloads. Thread-safe."""

    folder: Path
    port: int
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def job(self, profile: Profile, host: str = LOOPBACK) -> Job:
        """Return a new run with an empty folder and a URL of its own."""
        run = f"run{next(self._numbers)}"
        folder = self.folder / run
        folder.mkdir()
        return Job(run, folder, f"http://{host}:{self.port}{profile.path(run)}", self.port)

    def hash(self, version: str, size: int) -> str:
        """Return the SHA-256 (hexadecimal) of the first ``size`` bytes of the file ``old`` or ``new``."""
        return _hash_of_first(self.folder / version, size)


@dataclass(frozen=True, slots=True)
class Job:
    """The download of one file by one client, in one or more processes."""

    run: str
    folder: Path
    url: str
    port: int

    @property
    def target(self) -> Path:
        return self.folder / NAME

    def fetch(
        self,
        client: Client,
        *,
        timeout: float,
        limits: ClientLimits | None = None,
        sha256: str = "",
        resume: bool = False,
        prefix: Sequence[str] = (),
        kill_at: int = sys.maxsize,
    ) -> Measured:
        """Run one process of ``client``; kill it after ``timeout`` (s) or when ``kill_at`` bytes are delivered.

        ``prefix``: a command that executes the client's command.
        """
        command = client.command(Order(self.url, self.target, limits, sha256, resume))
        return measure(
            (*prefix, *command),
            timeout=timeout,
            environment=environment(),
            folder=self.folder,
            stop=lambda: kill_at < sys.maxsize and self.figures().get("delivered", 0) >= kill_at,
        )

    def hash(self) -> str:
        """Return the SHA-256 of the target in hexadecimal; empty if there is no file."""
        if not self.target.is_file():
            return ""
        with self.target.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def figures(self) -> dict[str, int]:
        """Return the server's counters of this run: ``delivered`` bytes, ``requests``, maximum ``connections``."""
        connection = HTTPConnection(LOOPBACK, self.port, timeout=10)
        try:
            connection.request("GET", f"/{self.run}/figures")
            figures: dict[str, int] = json.load(connection.getresponse())
        finally:
            connection.close()
        return figures

    def clear(self) -> None:
        """Remove all files of the run."""
        for path in self.folder.iterdir():
            path.unlink()


@contextmanager
def laboratory(sizes: tuple[int, int]) -> Iterator[Laboratory]:
    """Provide files of these ``sizes`` in bytes: the old one, of which every row serves a prefix, and the new one."""
    with ExitStack() as stack:
        # Room for source and copy, and for eight clients that receive an endless body.
        folder = stack.enter_context(workspace(2 * sizes[0] + 3 * 1024**3))
        for seed, (name, size) in enumerate(zip(("old", "new"), sizes, strict=True)):
            write_random(folder / name, size, seed)
        # The lossy line has its own address; it exists only in a private network namespace.
        host = "0.0.0.0" if has_namespaces() else LOOPBACK
        port = stack.enter_context(service("benchmarks.download.server.server", str(folder), host))
        yield Laboratory(folder, int(port))


@contextmanager
def lossy_line(round_trip: float, loss: float) -> Iterator[str]:
    """Yield the address of the server on a line with ``round_trip`` (s) and ``loss`` (0 to 1)."""
    with service("benchmarks.download.link", str(round_trip), str(loss)):
        yield FAR


@cache
def _hash_of_first(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for start in range(0, size, MIB):
            digest.update(file.read(min(MIB, size - start)))
    return digest.hexdigest()
