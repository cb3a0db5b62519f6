"""A distant source: connections opened in advance, hedged requests, and revalidation at the end."""

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
#: Time until a response begins, s.
LATENCY = 2 * FAR


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path)


@pytest.fixture
def file(server: SourceServer) -> RangedFile:
    """A file served at 4 MiB/s per connection."""
    served = RangedFile(DATA, block=16384)
    served.rate = 4.0 * MIB
    served.twist = _delayed
    server.add("/file", served)
    return served


def _delayed(_exchange: Exchange, _start: int, _end: int) -> bool:
    threading.Event().wait(LATENCY)
    return False


def fetch(fetcher: Fetcher, server: SourceServer, limits: DownloadLimits = MANY) -> Downloaded:
    return fetcher.fetch(server.url("/file"), limits=limits)


def revalidations(server: SourceServer) -> int:
    return sum(request.headers["range"] == "bytes=0-0" for request in server.requests)


def test_all_connections_are_used(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    got = fetch(fetcher, server)
    assert got.path.read_bytes() == DATA
    assert got.connections == 4
    assert 1 <= revalidations(server) <= 16


def test_connection_serves_several_ranges(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    file.largest_part = MIB // 4
    assert fetch(fetcher, server).path.read_bytes() == DATA
    assert server.connections < len(server.requests) / 2


@pytest.mark.parametrize("keep_open", [False, True], ids=["at once", "at the next request"])
def test_connection_closed_between_two_ranges_is_replaced(
    keep_open: bool, server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    used: set[object] = set()

    def close_when_reused(exchange: Exchange, start: int, end: int) -> bool:
        if exchange.connection in used:
            return True  # without a response
        used.add(exchange.connection)
        return _delayed(exchange, start, end)

    file.largest_part, file.keeps = MIB // 2, keep_open
    file.twist = close_when_reused
    got = fetch(fetcher, server)
    assert got.path.read_bytes() == DATA
    assert got.connections == 4  # a stale connection does not count as a refusal


def test_surplus_bytes_are_not_taken_for_the_next_response(
    server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    forged = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n\r\nwrong"

    def send_surplus(exchange: Exchange, start: int, end: int) -> bool:
        _delayed(exchange, start, end)
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

    file.largest_part, file.twist = MIB // 2, send_surplus
    assert fetch(fetcher, server).path.read_bytes() == DATA


def test_silent_range_is_hedged_over_an_idle_connection(
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

    def remember(exchange: Exchange, start: int, end: int) -> bool:
        exchanges[threading.get_ident()] = exchange
        return _delayed(exchange, start, end)

    file.on_block, file.twist = fall_silent, remember
    assert fetch(fetcher, server, replace(MANY, stall_timeout=1000)).path.read_bytes() == DATA
    assert held


def test_dripping_range_is_hedged_over_an_idle_connection(
    server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    """The slow connection is never silent, and would take an hour; the bytes that it delivered are kept."""
    over = threading.Event()
    dripping: list[int] = []

    def drip(exchange: Exchange, start: int, end: int) -> bool:
        if len(server.requests) < 3 or dripping or end - start <= ALIGNMENT:
            return _delayed(exchange, start, end)
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


def test_unused_connections_are_closed(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    """One connection is fast enough: the others are opened in advance and get no request."""
    file.rate = None
    got = fetch(fetcher, server)
    assert got.path.read_bytes() == DATA
    assert got.connections == 1
    assert len(server.requests) - revalidations(server) == 1
    assert server.connections > 2
    assert not [thread.name for thread in threading.enumerate() if thread.name == "download-worker"]


def test_file_replaced_during_the_download_is_fetched_again(
    server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    def swap(sent: int) -> None:
        if sent >= len(DATA) // 2 and file.data is DATA:
            file.data, file.etag = OTHER, '"v2"'

    file.on_block = swap
    assert fetch(fetcher, server).path.read_bytes() == OTHER


@pytest.mark.parametrize("share", [0.5, 1.0], ids=["in the middle", "with the last bytes"])
def test_file_overwritten_in_place_is_detected_by_revalidation(
    share: float, server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    """Every range response belongs to the first version when it begins; only the last request shows the second one."""
    file.conditions = False
    # One block of each connection may be on its way when the last one begins.
    in_flight = (MANY.max_connections + 1) * file.block

    def overwrite(sent: int) -> None:
        if sent >= len(DATA) * share - in_flight and file.data is DATA:
            file.data, file.etag = OTHER, '"v2"'

    file.on_block = overwrite
    assert fetch(fetcher, server).path.read_bytes() == OTHER


def test_failed_revalidation_does_not_count_as_a_change(
    server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    def refuse_revalidation(exchange: Exchange, start: int, end: int) -> bool:
        if end == 1:
            exchange.respond(503)
            return True
        return _delayed(exchange, start, end)

    file.twist = refuse_revalidation
    assert fetch(fetcher, server).path.read_bytes() == DATA


def test_cancel_with_idle_connections(server: SourceServer, file: RangedFile, tmp_path: Path) -> None:
    token = CancelToken()
    file.on_block = lambda _sent: token.cancel(ErrorCode.SHUTTING_DOWN)
    with pytest.raises(CancelledError):
        fetch(Fetcher(tmp_path, cancel=token), server)
    assert list(tmp_path.iterdir()) == []
