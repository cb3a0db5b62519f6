"""One file over several connections: their number, and the right bytes in every case."""

from __future__ import annotations

import hashlib
import math
import random
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.cancellation import CancelToken
from pipeline.download import Checksum, DownloadProgress
from pipeline.download.http.rate_limit import RateLimit
from pipeline.errors import CancelledError, ErrorCode, TransientError
from tests.pipeline.download.fetching import LIMITS, Fetcher
from tests.support.ranged_source import RangedFile
from tests.support.source_server import Exchange, SourceServer, answer, redirect, sequence

MIB = 1024**2
DATA = random.Random(2).randbytes(6 * MIB + 12_345)
SUM = Checksum("sha256", hashlib.sha256(DATA).hexdigest())
MANY = replace(LIMITS, max_connections=8)


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path)


@pytest.fixture
def file(server: SourceServer) -> RangedFile:
    served = RangedFile(DATA)
    server.add("/file", served)
    return served


def assert_data(fetcher: Fetcher, data: bytes = DATA) -> None:
    """Check that the complete file is the only entry of the folder."""
    (path,) = fetcher.folder.iterdir()
    assert path.read_bytes() == data


def requested_ranges(server: SourceServer) -> list[tuple[int, int | None]]:
    """Return the first and the last byte of each request. With several, the last one is the revalidation."""
    ranges = [request.headers["range"].removeprefix("bytes=").partition("-") for request in server.requests]
    return [(int(first), int(last) if last else None) for first, _, last in ranges]


def test_fast_source_gets_one_request(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    got = fetcher.fetch(server.url("/file"), limits=MANY)
    assert_data(fetcher)
    assert (got.bytes, got.connections, got.sha256) == (len(DATA), 1, None)
    (request,) = server.requests
    assert request.headers["range"] == "bytes=0-"


def test_source_limited_per_connection_gets_many(
    server: SourceServer, file: RangedFile, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine delays loopback so much that the source would count as distant, whose connections are kept alive.
    monkeypatch.setattr("pipeline.download.parallel.scheduler.FAR", math.inf)
    file.rate, file.block = 1.0 * MIB, 16384
    got = fetcher.fetch(server.url("/file"), limits=MANY)
    assert_data(fetcher)
    assert got.connections > 3
    assert {request.headers.get("if-match") for request in server.requests[1:]} == {'"v1"'}
    assert {request.headers["connection"] for request in server.requests} == {"close"}


def test_max_connections_is_respected(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    file.rate, file.block = 1.5 * MIB, 16384
    got = fetcher.fetch(server.url("/file"), limits=replace(LIMITS, max_connections=3))
    assert_data(fetcher)
    assert got.connections == 3


def test_number_of_connections_follows_refusals(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    file.rate, file.block, file.max_connections = 1.5 * MIB, 16384, 2
    fetcher.fetch(server.url("/file"), limits=MANY)
    assert_data(fetcher)
    assert file.busiest == 2
    assert len(server.requests) < 40


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_source_without_a_validator_gets_one_connection(
    etag: str | None, server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    file.etag, file.rate = etag, 4.0 * MIB
    fetcher.fetch(server.url("/file"), limits=MANY)
    assert_data(fetcher)
    assert len(server.requests) == 1


OLD = {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT", "Date": "Mon, 01 Jan 2024 00:05:00 GMT"}


@pytest.mark.parametrize(
    ("headers", "checksum"), [(OLD, None), ({}, SUM), (OLD, SUM)], ids=["an old date", "a checksum", "both"]
)
def test_checksum_or_old_date_allows_several_connections(
    headers: Mapping[str, str], checksum: Checksum | None, server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    file.etag, file.headers, file.rate = None, headers, 1.0 * MIB
    got = fetcher.fetch(server.url("/file"), limits=MANY, checksum=checksum)
    assert_data(fetcher)
    assert got.connections > 1
    dates = {request.headers.get("if-unmodified-since") for request in server.requests[1:]}
    assert dates == {headers.get("Last-Modified")}


def test_redirects_are_followed_once(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    server.add("/start", redirect("/file"))
    file.rate = 1.0 * MIB
    fetcher.fetch(server.url("/start"), limits=MANY)
    assert_data(fetcher)
    assert [request.path for request in server.requests].count("/start") == 1


def test_expired_redirect_is_followed_again(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    server.add("/start", sequence(redirect("/first"), redirect("/file")))
    server.add("/first", sequence(file, answer(403)))
    file.cut_after = 2 * MIB
    fetcher.fetch(server.url("/start"))
    assert_data(fetcher)
    assert [request.path for request in server.requests][:4] == ["/start", "/first", "/first", "/start"]


def test_server_may_send_less_than_requested(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    file.cut_after = MIB

    def part(exchange: Exchange, start: int, end: int) -> bool:
        if start == 0:
            return False
        body = DATA[start : min(start + MIB, end)]
        content_range = f"bytes {start}-{start + len(body) - 1}/{len(DATA)}"
        exchange.respond(206, body, {"Content-Range": content_range, "ETag": '"v1"'})
        return True

    file.twist = part
    fetcher.fetch(server.url("/file"))
    assert_data(fetcher)
    assert [start for start, _ in requested_ranges(server)] == [*range(0, len(DATA), MIB), 0]


def test_sha256_is_returned_if_computed(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    assert fetcher.fetch(server.url("/file"), checksum=SUM).sha256 == SUM.hexdigest
    md5 = Checksum("md5", hashlib.md5(DATA).hexdigest())
    assert fetcher.fetch(server.url("/file"), checksum=md5).sha256 is None


def test_progress_covers_all_connections(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    seen: list[DownloadProgress] = []
    file.rate = 1.0 * MIB
    fetcher.fetch(server.url("/file"), limits=replace(MANY, progress_interval=0), on_progress=seen.append)
    amounts = [progress.bytes for progress in seen]
    assert amounts == sorted(amounts)
    assert amounts[-1] == len(DATA)
    assert {progress.total for progress in seen} == {len(DATA)}


def test_error_of_the_listener_ends_all_connections(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    file.rate = 0.3 * MIB

    def fail(progress: DownloadProgress) -> None:
        if progress.bytes > MIB:
            raise OSError("broker down")

    with pytest.raises(OSError, match="broker down"):
        fetcher.fetch(server.url("/file"), limits=replace(MANY, progress_interval=0), on_progress=fail)
    assert list(fetcher.folder.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "download-worker"]


def test_cancel_ends_all_connections(server: SourceServer, file: RangedFile, tmp_path: Path) -> None:
    token = CancelToken()
    file.rate = 0.2 * MIB

    def cancel() -> None:
        file.wait_until_sent(MIB // 2)
        token.cancel(ErrorCode.DELIVERY_LOST)

    canceller = threading.Thread(target=cancel)
    canceller.start()
    Fetcher(tmp_path, cancel=token).fail(
        server.url("/file"), CancelledError, ErrorCode.DELIVERY_LOST, max_connections=8, total_timeout=600
    )
    canceller.join()
    assert not [thread for thread in threading.enumerate() if thread.name == "download-worker"]


def test_total_timeout_covers_all_connections(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    file.rate = 0.1 * MIB
    fetcher.fail(server.url("/file"), TransientError, ErrorCode.SOURCE_TIMEOUT, max_connections=4, total_timeout=0.8)


def test_stalled_connection_is_replaced_by_an_idle_worker(
    server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    """The replacement comes long before the stall timeout, and the delivered bytes are not fetched again."""
    stalled = threading.Event()

    def stall_once(exchange: Exchange, start: int, end: int) -> bool:
        if start == 0 or stalled.is_set():
            return False
        stalled.set()
        exchange.head(
            206,
            {
                "Content-Range": f"bytes {start}-{end - 1}/{len(DATA)}",
                "ETag": '"v1"',
                "Content-Length": str(end - start),
            },
        )
        exchange.send(DATA[start : start + 100_000])
        exchange.hold()
        return True

    file.twist, file.rate = stall_once, 1.5 * MIB
    fetcher.fetch(server.url("/file"), limits=replace(MANY, stall_timeout=600, total_timeout=600))
    assert_data(fetcher)
    assert stalled.is_set()


def test_rate_limit_is_shared_by_all_connections(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    file.data = DATA[: 2 * MIB]
    got = fetcher.fetch(server.url("/file"), limits=MANY, rate=RateLimit(2.0 * MIB, None))
    assert_data(fetcher, file.data)
    assert got.seconds > 0.6


def test_short_outage_is_retried(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    answers = iter([False, True, True, False])

    def refuse(exchange: Exchange, start: int, end: int) -> bool:
        if next(answers, False):
            exchange.respond(503)
            return True
        return False

    file.cut_after, file.twist = 4 * MIB, refuse
    fetcher.fetch(server.url("/file"))
    assert_data(fetcher)
    assert [start for start, _ in requested_ranges(server)] == [0, 4 * MIB, 4 * MIB, 4 * MIB, 0]


def test_long_retry_after_is_left_to_the_caller(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    def refuse(exchange: Exchange, start: int, end: int) -> bool:
        if start:
            exchange.respond(429, headers={"Retry-After": "120"})
        return bool(start)

    file.cut_after, file.twist = MIB, refuse
    error = fetcher.fail(server.url("/file"), TransientError, ErrorCode.SOURCE_UNAVAILABLE)
    assert isinstance(error, TransientError)
    assert error.retry_after == 120


def test_unanswered_connection_is_replaced(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    """Some servers queue connections instead of refusing them."""
    queued = threading.Event()

    def queue_once(exchange: Exchange, start: int, end: int) -> bool:
        if start == 0 or queued.is_set():
            return False
        queued.set()
        exchange.hold()
        return True

    file.twist, file.rate = queue_once, 1.5 * MIB
    fetcher.fetch(server.url("/file"), limits=replace(MANY, stall_timeout=600, total_timeout=600))
    assert_data(fetcher)
    assert queued.is_set()
