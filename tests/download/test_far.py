"""A source that is far away: connections are made ahead, and the question after the version is asked in time."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.cancel import CancelToken
from pipeline.download import Downloaded, DownloadLimits
from pipeline.download.ranged.download import FAR
from pipeline.errors import CancelledError, ErrorCode
from tests.download.fetching import LIMITS, Fetcher
from tests.support.ranged_source import RangedFile
from tests.support.source_server import Exchange, SourceServer

MIB = 1024**2
DATA = random.Random(5).randbytes(8 * MIB + 77)
OTHER = random.Random(6).randbytes(len(DATA))
MANY = replace(LIMITS, max_bytes=2 * len(DATA), max_connections=4)
#: Until an answer begins, s.
LATENCY = 2 * FAR


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path)


@pytest.fixture
def file(server: SourceServer) -> RangedFile:
    """Of 4 MiB/s for each connection."""
    served = RangedFile(DATA, block=16384)
    served.rate = 4.0 * MIB
    served.twist = _late
    server.add("/file", served)
    return served


def _late(_exchange: Exchange, _start: int, _end: int) -> bool:
    threading.Event().wait(LATENCY)
    return False


def fetch(fetcher: Fetcher, server: SourceServer, limits: DownloadLimits = MANY) -> Downloaded:
    return fetcher.fetch(server.url("/file"), limits=limits)


def version_questions(server: SourceServer) -> int:
    return sum(request.headers["range"] == "bytes=0-0" for request in server.requests)


def test_all_connections_help(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    got = fetch(fetcher, server)
    assert got.path.read_bytes() == DATA
    assert got.connections == 4
    assert version_questions(server) >= 1


def test_what_is_connected_in_vain_is_closed(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    """One connection is fast enough: the others were made, and are asked for nothing."""
    file.rate = None
    got = fetch(fetcher, server)
    assert got.path.read_bytes() == DATA
    assert got.connections == 1
    assert len(server.requests) - version_questions(server) == 1
    assert server.connections > 2
    assert not [thread.name for thread in threading.enumerate() if thread.name == "download-worker"]


def test_a_file_that_is_replaced_on_its_way(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    def swap(sent: int) -> None:
        if sent >= len(DATA) // 2 and file.data is DATA:
            file.data, file.etag = OTHER, '"v2"'

    file.on_block = swap
    assert fetch(fetcher, server).path.read_bytes() == OTHER


def test_a_source_that_is_gone_at_the_end_has_not_changed(
    server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    def refuse_the_question(exchange: Exchange, start: int, end: int) -> bool:
        if end == 1:
            exchange.respond(503)
            return True
        return _late(exchange, start, end)

    file.twist = refuse_the_question
    assert fetch(fetcher, server).path.read_bytes() == DATA


def test_a_cancel_while_connections_wait(server: SourceServer, file: RangedFile, tmp_path: Path) -> None:
    token = CancelToken()
    file.on_block = lambda _sent: token.cancel(ErrorCode.SHUTTING_DOWN)
    with pytest.raises(CancelledError):
        fetch(Fetcher(tmp_path, cancel=token), server)
    assert list(tmp_path.iterdir()) == []
