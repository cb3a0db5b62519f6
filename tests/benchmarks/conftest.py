"""The benchmark's own server with small files, and a way to ask it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse

import pytest

from benchmarks.download.laboratory import LOOPBACK, Job, Laboratory, laboratory
from benchmarks.download.server.profile import MIB, Profile

SIZE = 2 * MIB


@pytest.fixture(scope="session")
def lab() -> Iterator[Laboratory]:
    with laboratory((SIZE, SIZE)) as opened:
        yield opened


@dataclass
class Visit:
    """One run of a client that is this test."""

    job: Job
    old: bytes
    new: bytes
    open: list[HTTPConnection] = field(default_factory=list)

    def head(self, method: str = "GET", **headers: str) -> HTTPResponse:
        """The response on a new connection, its body unread. Underscores in names become hyphens."""
        connection = HTTPConnection(LOOPBACK, self.job.port, timeout=10)
        self.open.append(connection)
        path = self.job.url.split("/", 3)[3]
        connection.request(method, f"/{path}", headers={name.replace("_", "-"): text for name, text in headers.items()})
        return connection.getresponse()

    def get(self, **headers: str) -> tuple[int, bytes]:
        response = self.head(**headers)
        return response.status, response.read()


class Visits:
    def __init__(self, lab: Laboratory) -> None:
        self._lab = lab
        self._made: list[Visit] = []

    def to(self, fault: str) -> Visit:
        """A new run on a server with this fault."""
        old, new = ((self._lab.folder / name).read_bytes() for name in ("old", "new"))
        self._made.append(Visit(self._lab.job(Profile(SIZE, fault=fault)), old, new))
        return self._made[-1]

    def close(self) -> None:
        for visit in self._made:
            for connection in visit.open:
                connection.close()


@pytest.fixture
def visits(lab: Laboratory) -> Iterator[Visits]:
    made = Visits(lab)
    yield made
    made.close()
