"""Resuming an interrupted download: only unfinished pieces are fetched twice, and the result is right."""

from __future__ import annotations

import hashlib
import json
import random
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
    """Return the ranges recorded in the journal."""
    _, *lines = (folder / "audio.journal").read_text().splitlines()
    return [ByteRange(start, end) for start, end, _ in map(json.loads, lines)]


def assert_data(fetcher: Fetcher) -> None:
    (path,) = fetcher.folder.iterdir()
    assert path.read_bytes() == DATA


def resume_download(fetcher: Fetcher, server: SourceServer, file: RangedFile, **options: Any) -> Downloaded:
    """Fetch the rest at full speed, and check that exactly the ranges missing from the journal are requested."""
    recorded = journalled(fetcher.folder)
    file.rate = file.cut_after = None
    before = len(server.requests)
    got = fetcher.fetch(server.url("/model"), resume=True, **options)
    assert_data(fetcher)
    assert got.resumed_bytes == sum(span.size for span in recorded)
    requested = [request.headers["range"] for request in server.requests[before:]]
    gaps = [f"bytes={start}-{end - 1}" for start, end in missing_ranges(len(DATA), recorded)]
    assert sorted(requested) == sorted([*gaps, *(["bytes=0-0"] if len(gaps) > 1 and "checksum" not in options else [])])
    return got


def interrupt(fetcher: Fetcher, server: SourceServer, amount: int, checksum: Checksum | None = None) -> None:
    """Cancel after ``amount`` bytes."""

    def cancel(progress: DownloadProgress) -> None:
        if progress.bytes >= amount:
            fetcher.cancel.cancel(ErrorCode.SHUTTING_DOWN)

    limits = replace(LIMITS, progress_interval=0, chunk_bytes=65536)
    with pytest.raises(CancelledError):
        fetcher.fetch(server.url("/model"), limits=limits, resume=True, checksum=checksum, on_progress=cancel)
    fetcher.cancel = CancelToken()


@pytest.mark.parametrize("share", [0.05, 0.5, 0.97])
@pytest.mark.parametrize("checksum", [None, SUM])
def test_cancelled_download_is_resumed(
    share: float, checksum: Checksum | None, server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    file.rate = 20.0 * MIB
    interrupt(fetcher, server, int(len(DATA) * share), checksum)
    assert {path.name for path in fetcher.folder.iterdir()} == {"audio.part", "audio.journal"}
    got = resume_download(fetcher, server, file, **({"checksum": checksum} if checksum else {}))
    assert got.resumed_bytes >= len(DATA) * share - 65536


def test_download_is_resumed_after_a_source_outage(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    def fail_later(exchange: Exchange, start: int, end: int) -> bool:
        if file.sent >= 3 * MIB:
            exchange.respond(503, headers={"Retry-After": "60"})
        return file.sent >= 3 * MIB

    file.cut_after, file.twist = 3 * MIB, fail_later
    with pytest.raises(TransientError):
        fetcher.fetch(server.url("/model"), resume=True)
    file.twist = None
    assert resume_download(fetcher, server, file).resumed_bytes == 3 * MIB


@pytest.mark.parametrize("share", [0.15, 0.5, 0.9])
def test_killed_process_is_resumed(share: float, server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    """After SIGKILL during four connections, less than one piece of each of them is fetched again."""
    file.rate = 1.5 * MIB
    amount = int(len(DATA) * share)
    child = subprocess.Popen([sys.executable, "-c", PROCESS, server.url("/model"), str(fetcher.folder / "audio")])
    with child:
        file.wait_until_sent(amount)
        child.kill()
    got = resume_download(fetcher, server, file)
    # Pieces of 256 KiB on four connections, and data in flight.
    assert got.resumed_bytes >= amount - 4 * (4 + 16) * ALIGNMENT


def test_process_killed_twice_is_resumed(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    file.rate = 1.5 * MIB
    command = [sys.executable, "-c", PROCESS, server.url("/model"), str(fetcher.folder / "audio")]
    for _ in range(2):
        with subprocess.Popen(command) as child:
            file.wait_until_sent(file.sent + MIB)
            child.kill()
    resume_download(fetcher, server, file)


@pytest.mark.parametrize("conditions", [True, False])
def test_changed_file_is_fetched_from_the_start(
    conditions: bool, server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    """The change is detected even if the server ignores the condition."""
    file.data, file.etag, file.conditions = bytes(len(DATA)), '"v0"', conditions
    file.rate = 20.0 * MIB
    interrupt(fetcher, server, 3 * MIB)
    before = len(server.requests)
    file.data, file.etag = DATA, '"v1"'
    assert fetcher.fetch(server.url("/model"), resume=True).resumed_bytes == 0
    assert_data(fetcher)
    assert server.requests[before].headers["if-range"] == '"v0"'


def test_server_without_range_support_is_fetched_from_the_start(
    server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    file.rate = 20.0 * MIB
    interrupt(fetcher, server, 3 * MIB)
    file.ranges = False
    assert fetcher.fetch(server.url("/model"), resume=True).resumed_bytes == 0
    assert_data(fetcher)


@pytest.mark.parametrize("checksum", [None, SUM])
def test_damaged_piece_on_disk_is_fetched_again(
    checksum: Checksum | None, server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    file.rate = 20.0 * MIB
    interrupt(fetcher, server, 3 * MIB, checksum)
    with (fetcher.folder / "audio.part").open("r+b") as part:
        part.seek(MIB + 5)
        part.write(b"damage")
    recorded = journalled(fetcher.folder)
    damaged = next(span.size for span in recorded if span.start <= MIB + 5 < span.end)
    got = fetcher.fetch(server.url("/model"), resume=True, checksum=checksum)
    assert_data(fetcher)
    assert got.resumed_bytes == sum(span.size for span in recorded) - damaged


def test_complete_file_is_renamed_without_a_request(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    """The process ended between the last piece and the rename."""

    def exit_at_end(progress: DownloadProgress) -> None:
        if progress.fraction == 1:
            raise SystemExit

    with pytest.raises(SystemExit):
        fetcher.fetch(server.url("/model"), resume=True, checksum=SUM, on_progress=exit_at_end)
    before = len(server.requests)
    got = fetcher.fetch(server.url("/model"), resume=True, checksum=SUM)
    assert_data(fetcher)
    assert (got.resumed_bytes, len(server.requests)) == (len(DATA), before)


def test_part_file_is_removed_after_a_permanent_error(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    file.rate = 20.0 * MIB
    interrupt(fetcher, server, 3 * MIB)
    server.add("/model", lambda exchange: exchange.respond(404))
    fetcher.fail(server.url("/model"), PermanentError, ErrorCode.SOURCE_NOT_FOUND, resume=True)


def test_part_file_is_removed_without_resume(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    fetcher.fail(
        server.url("/model"),
        CancelledError,
        ErrorCode.SHUTTING_DOWN,
        progress_interval=0,
        on_progress=lambda _: fetcher.cancel.cancel(ErrorCode.SHUTTING_DOWN),
    )


def test_second_process_cannot_write_the_same_file(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
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
