"""Interrupted and gone on with: nothing but unfinished pieces is fetched twice, and what comes of it is right."""

from __future__ import annotations

import hashlib
import random
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.cancellation import CancelToken
from pipeline.download import Checksum, Downloaded, DownloadProgress
from pipeline.download.parallel.range_allocator import ALIGNMENT, ByteRange, missing_ranges
from pipeline.errors import CancelledError, ErrorCode, InfrastructureError, PermanentError, TransientError
from tests.pipeline.download.fetching import LIMITS, Fetcher
from tests.support.ranged_source import RangedFile
from tests.support.source_server import Exchange, SourceServer

MIB = 1024**2
DATA = random.Random(5).randbytes(5 * MIB + 777)
SUM = Checksum("sha256", hashlib.sha256(DATA).hexdigest())

PROCESS = """
import sys
from pathlib import Path
from pipeline.cancellation import CancelToken
from pipeline.download import DownloadLimits, UrlGuard, download
limits = DownloadLimits(10**8, 10, 10, 60, max_connections=4, min_piece_bytes=1 << 18)
download(sys.argv[1], Path(sys.argv[2]), guard=UrlGuard(True), limits=limits, cancel=CancelToken(), resume=True)
"""


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path)


@pytest.fixture
def file(server: SourceServer) -> RangedFile:
    served = RangedFile(DATA, block=16384)
    server.add("/model", served)
    return served


def journalled(folder: Path) -> list[ByteRange]:
    """What the journal claims."""
    with sqlite3.connect(folder / "audio.journal") as database:
        rows = database.execute("SELECT start, end FROM piece WHERE status = 'done'").fetchall()
    database.close()
    return [ByteRange(start, end) for start, end in rows]


def assert_data(fetcher: Fetcher) -> None:
    (path,) = fetcher.folder.iterdir()
    assert path.read_bytes() == DATA


def go_on(fetcher: Fetcher, server: SourceServer, file: RangedFile, **options: Any) -> Downloaded:
    """Fetch the rest at full speed: exactly what the journal does not claim is asked for."""
    there = journalled(fetcher.folder)
    file.rate = file.cut_after = None
    before = len(server.requests)
    got = fetcher.fetch(server.url("/model"), resume=True, **options)
    assert_data(fetcher)
    assert got.resumed_bytes == sum(span.size for span in there)
    asked = [request.headers["range"] for request in server.requests[before:]]
    gaps = [f"bytes={start}-{end - 1}" for start, end in missing_ranges(len(DATA), there)]
    assert sorted(asked) == sorted([*gaps, *(["bytes=0-0"] if len(gaps) > 1 and "checksum" not in options else [])])
    return got


def interrupt(fetcher: Fetcher, server: SourceServer, amount: int, checksum: Checksum | None = None) -> None:
    """Cancel when so much has come."""

    def cancel(progress: DownloadProgress) -> None:
        if progress.bytes >= amount:
            fetcher.cancel.cancel(ErrorCode.SHUTTING_DOWN)

    limits = replace(LIMITS, progress_interval=0, chunk_bytes=65536)
    with pytest.raises(CancelledError):
        fetcher.fetch(server.url("/model"), limits=limits, resume=True, checksum=checksum, on_progress=cancel)
    fetcher.cancel = CancelToken()


@pytest.mark.parametrize("share", [0.05, 0.5, 0.97])
@pytest.mark.parametrize("checksum", [None, SUM])
def test_a_cancelled_download_goes_on(
    share: float, checksum: Checksum | None, server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    file.rate = 20.0 * MIB
    interrupt(fetcher, server, int(len(DATA) * share), checksum)
    assert {path.name for path in fetcher.folder.iterdir()} == {"audio.part", "audio.journal"}
    got = go_on(fetcher, server, file, **({"checksum": checksum} if checksum else {}))
    assert got.resumed_bytes >= len(DATA) * share - 65536


def test_a_source_that_goes_away_and_comes_back(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    def away(exchange: Exchange, start: int, end: int) -> bool:
        if file.sent >= 3 * MIB:
            exchange.respond(503, headers={"Retry-After": "60"})
        return file.sent >= 3 * MIB

    file.cut_after, file.twist = 3 * MIB, away
    with pytest.raises(TransientError):
        fetcher.fetch(server.url("/model"), resume=True)
    file.twist = None
    assert go_on(fetcher, server, file).resumed_bytes == 3 * MIB


@pytest.mark.parametrize("share", [0.15, 0.5, 0.9])
def test_a_killed_process_is_gone_on_from(
    share: float, server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    """SIGKILL in the middle of four connections: what is fetched again is less than a piece for each of them."""
    file.rate = 1.5 * MIB
    amount = int(len(DATA) * share)
    child = subprocess.Popen([sys.executable, "-c", PROCESS, server.url("/model"), str(fetcher.folder / "audio")])
    with child:
        file.wait_until_sent(amount)
        child.kill()
    got = go_on(fetcher, server, file)
    # Pieces of 256 KiB on four connections, and what was on its way.
    assert got.resumed_bytes >= amount - 4 * (4 + 16) * ALIGNMENT


def test_killed_again_and_again(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    file.rate = 1.5 * MIB
    command = [sys.executable, "-c", PROCESS, server.url("/model"), str(fetcher.folder / "audio")]
    for _ in range(2):
        with subprocess.Popen(command) as child:
            file.wait_until_sent(file.sent + MIB)
            child.kill()
    go_on(fetcher, server, file)


@pytest.mark.parametrize("heard", [True, False])
def test_a_file_that_changed_meanwhile_is_fetched_anew(
    heard: bool, server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    """Whether the server hears the condition or not."""
    file.data, file.etag, file.conditions = bytes(len(DATA)), '"v0"', heard
    file.rate = 20.0 * MIB
    interrupt(fetcher, server, 3 * MIB)
    before = len(server.requests)
    file.data, file.etag = DATA, '"v1"'
    assert fetcher.fetch(server.url("/model"), resume=True).resumed_bytes == 0
    assert_data(fetcher)
    assert server.requests[before].headers["if-range"] == '"v0"'


def test_a_server_that_gives_no_parts_any_more(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    file.rate = 20.0 * MIB
    interrupt(fetcher, server, 3 * MIB)
    file.ranges = False
    assert fetcher.fetch(server.url("/model"), resume=True).resumed_bytes == 0
    assert_data(fetcher)


@pytest.mark.parametrize("checksum", [None, SUM])
def test_a_piece_that_was_damaged_on_the_disk_is_fetched_again(
    checksum: Checksum | None, server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    file.rate = 20.0 * MIB
    interrupt(fetcher, server, 3 * MIB, checksum)
    with (fetcher.folder / "audio.part").open("r+b") as part:
        part.seek(MIB + 5)
        part.write(b"damage")
    there = sum(span.size for span in journalled(fetcher.folder))
    got = fetcher.fetch(server.url("/model"), resume=True, checksum=checksum)
    assert_data(fetcher)
    assert got.resumed_bytes == there - MIB


def test_nothing_is_missing_but_the_end(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    """The process died between the last piece and the new name."""

    def die(progress: DownloadProgress) -> None:
        if progress.fraction == 1:
            raise SystemExit

    with pytest.raises(SystemExit):
        fetcher.fetch(server.url("/model"), resume=True, checksum=SUM, on_progress=die)
    before = len(server.requests)
    got = fetcher.fetch(server.url("/model"), resume=True, checksum=SUM)
    assert_data(fetcher)
    assert (got.resumed_bytes, len(server.requests)) == (len(DATA), before)


def test_what_cannot_be_gone_on_with_is_not_kept(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    file.rate = 20.0 * MIB
    interrupt(fetcher, server, 3 * MIB)
    server.add("/model", lambda exchange: exchange.respond(404))
    fetcher.fail(server.url("/model"), PermanentError, ErrorCode.SOURCE_NOT_FOUND, resume=True)


def test_without_resume_nothing_is_kept(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    fetcher.fail(
        server.url("/model"),
        CancelledError,
        ErrorCode.SHUTTING_DOWN,
        progress_interval=0,
        on_progress=lambda _: fetcher.cancel.cancel(ErrorCode.SHUTTING_DOWN),
    )


def test_two_processes_do_not_write_one_file(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    file.rate = 1.0 * MIB
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS, server.url("/model"), str(fetcher.folder / "audio")]
    ) as child:
        file.wait_until_sent(MIB)
        with pytest.raises(InfrastructureError, match="another process"):
            fetcher.fetch(server.url("/model"), limits=LIMITS, resume=True)
        assert (fetcher.folder / "audio.part").exists()
        file.rate = None
        assert child.wait(20) == 0
    assert_data(fetcher)
