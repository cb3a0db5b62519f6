"""A source that is far away: connections are made ahead, and the question after the version is asked in time."""

from __future__ import annotations

import contextlib
import random
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.cancellation import CancelToken
from pipeline.download import Downloaded, DownloadLimits
from pipeline.download.parallel.range_allocator import ALIGNMENT
from pipeline.download.parallel.scheduler import FAR
from pipeline.errors import CancelledError, ErrorCode
from tests.pipeline.download.fetching import LIMITS, Fetcher
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


def test_a_connection_is_used_for_one_part_after_the_other(
    server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    file.largest_part = MIB // 4
    assert fetch(fetcher, server).path.read_bytes() == DATA
    assert server.connections < len(server.requests) / 2


@pytest.mark.parametrize("asked_again", [False, True], ids=["at once", "when it is asked again"])
def test_a_connection_that_is_closed_between_two_parts_is_made_anew(
    asked_again: bool, server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    used: set[object] = set()

    def hang_up(exchange: Exchange, start: int, end: int) -> bool:
        if exchange.connection in used:
            return True  # without an answer
        used.add(exchange.connection)
        return _late(exchange, start, end)

    file.largest_part, file.keeps = MIB // 2, asked_again
    file.twist = hang_up
    got = fetch(fetcher, server)
    assert got.path.read_bytes() == DATA
    assert got.connections == 4  # that is no sign of too many


def test_what_comes_behind_an_answer_is_not_taken_for_the_next_one(
    server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    forged = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n\r\nwrong"

    def more_than_announced(exchange: Exchange, start: int, end: int) -> bool:
        _late(exchange, start, end)
        if exchange.request.headers["range"] == "bytes=0-":
            return False
        exchange.head(
            206,
            {
                "Content-Range": f"bytes {start}-{end - 1}/{len(DATA)}",
                "Content-Length": str(end - start),
                "ETag": str(file.etag),
            },
        )
        exchange.send(DATA[start:end] + forged)
        exchange.keep_open = exchange.wants_more
        return True

    file.largest_part, file.twist = MIB // 2, more_than_announced
    assert fetch(fetcher, server).path.read_bytes() == DATA


def test_what_is_lost_on_the_way_is_asked_for_again_over_a_connection_that_is_idle(
    server: SourceServer, file: RangedFile, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.download.parallel.scheduler.SILENT", 1000.0)
    held: list[Exchange] = []

    def fall_silent(sent: int) -> None:
        if sent >= len(DATA) - MIB and not held:
            held.append(exchanges[threading.get_ident()])
            with contextlib.suppress(OSError):
                held[0].hold()

    exchanges: dict[int, Exchange] = {}

    def note(exchange: Exchange, start: int, end: int) -> bool:
        exchanges[threading.get_ident()] = exchange
        return _late(exchange, start, end)

    file.on_block, file.twist = fall_silent, note
    assert fetch(fetcher, server, replace(MANY, stall_timeout=1000)).path.read_bytes() == DATA
    assert held


def test_what_drips_is_fetched_over_a_connection_that_is_idle_as_well(
    server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    """It is never silent, and would take an hour for what it has; what it brought is kept."""
    over = threading.Event()
    dripping: list[int] = []

    def drip(exchange: Exchange, start: int, end: int) -> bool:
        if len(server.requests) < 3 or dripping or end - start <= ALIGNMENT:
            return _late(exchange, start, end)
        dripping.append(start)
        content_range = f"bytes {start}-{end - 1}/{len(DATA)}"
        exchange.head(206, {"Content-Range": content_range, "Content-Length": str(end - start), "ETag": str(file.etag)})
        with contextlib.suppress(OSError):
            for byte in DATA[start:end]:
                exchange.send(bytes([byte]))
                if over.wait(0.02):
                    break
        return True

    file.twist = drip
    try:
        assert fetch(fetcher, server).path.read_bytes() == DATA
    finally:
        over.set()
    assert dripping


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
