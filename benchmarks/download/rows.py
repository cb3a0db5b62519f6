"""Speed: every client fetches the same file over different lines."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.download.clients import Client
from benchmarks.download.laboratory import LOOPBACK, Laboratory, lossy_line
from benchmarks.download.measure import Measured
from benchmarks.download.sandbox import congestion_controls, has_lossy_line
from benchmarks.download.server.profile import MIB, Profile

ROUND_TRIP: Final = 0.18
LOSS: Final = 0.01
LARGEST: Final = 1024 * MIB

#: A client that has run for this long in a row, s, is not run again in it.
_BUDGET = 25.0
_TIMEOUT = 240.0


@dataclass(frozen=True, slots=True)
class DownloadRow:
    """A line, and the file fetched over it."""

    name: str
    line: str
    profile: Profile
    quick_size: int
    repeats: int = 3
    lossy: bool = False
    concurrent: bool = False
    """Run all clients at once, on a line on which they do not compete."""

    @property
    def title(self) -> str:
        size = self.profile.size
        amount = f"{size / MIB:g} MiB" if size < LARGEST else f"{size / LARGEST:g} GiB"
        return f"{amount}, {self.line}"

    def quick(self) -> DownloadRow:
        """Return the same row with a small file and one repeat."""
        return replace(self, profile=replace(self.profile, size=self.quick_size), repeats=1)

    def obstacle(self) -> str:
        """Return the reason why this row cannot be measured here; empty if it can."""
        if self.lossy and not has_lossy_line():
            return "no TUN device in a private network namespace"
        if self.profile.congestion and self.profile.congestion not in congestion_controls():
            return f"the kernel has no {self.profile.congestion}"
        return ""


ROWS: Final = (
    DownloadRow("plain", "as fast as it goes", Profile(LARGEST), 64 * MIB, repeats=7),
    DownloadRow("throttled", "2 MiB/s for each connection", Profile(64 * MIB, rate=2 * MIB), 8 * MIB),
    DownloadRow("shared", "32 MiB/s for all connections together", Profile(64 * MIB, shared_rate=32 * MIB), 8 * MIB),
    DownloadRow(
        "latency",
        "180 ms round trip, 16 MiB/s for each connection (delays in the server)",
        Profile(64 * MIB, rate=16 * MIB, round_trip=ROUND_TRIP),
        4 * MIB,
        repeats=5,
    ),
    DownloadRow(
        "lossy-bbr",
        "180 ms round trip and 1 % loss (TUN device), the server sends with BBR",
        Profile(32 * MIB, congestion="bbr"),
        2 * MIB,
        repeats=5,
        lossy=True,
    ),
    DownloadRow(
        "lossy-cubic",
        "180 ms round trip and 1 % loss (TUN device), the server sends with CUBIC; all clients at once",
        Profile(8 * MIB, congestion="cubic"),
        MIB // 2,
        repeats=1,
        lossy=True,
        concurrent=True,
    ),
)


@dataclass(frozen=True, slots=True)
class DownloadSample:
    """One run."""

    measured: Measured
    right: bool
    """The client succeeded, and the bytes are those of the source."""
    connections: int
    """Maximum responses that the server sent at the same time."""


Samples = dict[str, list[DownloadSample]]
"""Samples by client name."""


def run_download_row(laboratory: Laboratory, row: DownloadRow, clients: Sequence[Client]) -> Samples:
    """Run every client several times, in alternating order."""
    samples: Samples = {client.name: [] for client in clients}
    with _host(row) as host:

        def run(client: Client) -> None:
            samples[client.name].append(_sample(laboratory, row, client, host))
            log_progress(f"{row.name}: {client.name} {samples[client.name][-1].measured.wall:.2f} s")

        for number in range(row.repeats):
            order = clients if number % 2 == 0 else tuple(reversed(clients))
            _each(run, [client for client in order if _spent(samples[client.name]) < _BUDGET], row.concurrent)
    return samples


def server_ceiling(laboratory: Laboratory, size: int) -> float:
    """Return the rate (bytes/s) of the server over one connection whose client discards everything in the kernel."""
    job = laboratory.job(Profile(size))
    path = job.url.split("/", 3)[3]
    received, buffer = 0, bytearray(MIB)
    with socket.create_connection((LOOPBACK, job.port)) as connection:
        started = time.monotonic()
        connection.sendall(f"GET /{path} HTTP/1.1\r\nConnection: close\r\n\r\n".encode("ascii"))
        while count := connection.recv_into(buffer, MIB, socket.MSG_TRUNC):
            received += count
        return received / (time.monotonic() - started)


def log_progress(text: str) -> None:
    """Write a line about the progress to stderr."""
    sys.stderr.write(f"{text}\n")


@contextmanager
def _host(row: DownloadRow) -> Iterator[str]:
    if not row.lossy:
        yield LOOPBACK
        return
    with lossy_line(ROUND_TRIP, LOSS) as host:
        yield host


def _each(run: Callable[[Client], None], clients: Sequence[Client], concurrent: bool) -> None:
    with ThreadPoolExecutor(len(clients) or 1 if concurrent else 1) as pool:
        list(pool.map(run, clients))


def _sample(laboratory: Laboratory, row: DownloadRow, client: Client, host: str) -> DownloadSample:
    job = laboratory.job(row.profile, host)
    measured = job.fetch(client, timeout=_TIMEOUT)
    right = measured.exit_code == 0 and job.hash() == laboratory.hash("old", row.profile.size)
    connections = job.figures().get("connections", 0)
    job.clear()
    return DownloadSample(measured, right, connections)


def _spent(samples: Sequence[DownloadSample]) -> float:
    return sum(sample.measured.wall for sample in samples)
