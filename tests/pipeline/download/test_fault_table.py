"""Faults of sources, single and combined: the result is the right bytes or a clear error, never wrong bytes."""

from __future__ import annotations

import base64
import gzip
import hashlib
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.download import Checksum
from pipeline.errors import ErrorCode, PermanentError, TransientError
from tests.pipeline.download.fetching import LIMITS, Fetcher
from tests.support.ranged_source import RangedFile
from tests.support.source_server import Exchange, SourceServer

MIB = 1024**2
DATA = random.Random(3).randbytes(4 * MIB + 4321)
OTHER = random.Random(4).randbytes(len(DATA))
SUM = Checksum("sha256", hashlib.sha256(DATA).hexdigest())


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path)


@pytest.fixture
def file(server: SourceServer) -> RangedFile:
    served = RangedFile(DATA, block=16384)
    server.add("/file", served)
    return served


@pytest.fixture(params=[1, 6])
def connections(request: pytest.FixtureRequest, file: RangedFile) -> int:
    """The maximum number of connections. With several, the file is slow enough to use them."""
    count: int = request.param
    file.rate = 3.0 * MIB if count > 1 else None
    return count


def fetch(fetcher: Fetcher, server: SourceServer, connections: int, checksum: Checksum | None = None) -> bytes:
    limits = replace(LIMITS, max_connections=connections)
    return fetcher.fetch(server.url("/file"), limits=limits, checksum=checksum).path.read_bytes()


def replace_at(file: RangedFile, amount: int, data: bytes = OTHER, etag: str | None = '"v2"') -> None:
    def swap(sent: int) -> None:
        if sent >= amount and file.data is not data:
            file.data, file.etag = data, etag

    file.on_block = swap


def test_file_replaced_half_way_is_fetched_again(
    connections: int, server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    file.rate = 3.0 * MIB
    replace_at(file, len(DATA) // 2)
    assert fetch(fetcher, server, connections) == OTHER


def test_file_that_changes_its_length_is_fetched_again(
    connections: int, server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    file.cut_after = MIB
    replace_at(file, 3 * MIB, OTHER[: 3 * MIB])
    assert fetch(fetcher, server, connections) == OTHER[: 3 * MIB]


def test_change_is_detected_if_the_server_ignores_conditions(
    server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    file.conditions, file.rate = False, 3.0 * MIB
    replace_at(file, len(DATA) // 2)
    assert fetch(fetcher, server, 6) == OTHER


def test_file_that_keeps_changing_is_given_up(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    file.cut_after = MIB

    def change(sent: int) -> None:
        file.etag = f'"{sent // MIB}"'

    file.on_block = change
    error = fetcher.fail(server.url("/file"), TransientError, ErrorCode.SOURCE_INCOMPLETE)
    assert "keeps changing" in error.message


def test_checksum_decides_if_servers_disagree_on_etags(
    connections: int, server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    """Several servers behind one name may use different tags for one file."""
    tags = iter(range(10**6))

    def another(exchange: Exchange, start: int, end: int) -> bool:
        file.etag = f'"{next(tags)}"'
        return False

    file.cut_after, file.twist = 2 * MIB, another
    assert fetch(fetcher, server, connections, SUM) == DATA


def test_server_that_stops_supporting_ranges(
    connections: int, server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    """The first response is 206, all others are 200."""
    file.cut_after = 2 * MIB

    def whole(exchange: Exchange, start: int, end: int) -> bool:
        if "range" in exchange.request.headers and len(server.requests) == 1:
            return False
        exchange.respond(200, DATA, {"ETag": '"v1"'})
        return True

    file.twist = whole
    assert fetch(fetcher, server, connections) == DATA


LIES: dict[str, Callable[[int, int, int], str]] = {
    "another start": lambda start, end, total: f"bytes {max(start - 1, 0)}-{end - 2}/{total}",
    "another end": lambda start, end, total: f"bytes {start}-{end - 2}/{total}",
    "no total": lambda start, end, total: f"bytes {start}-{end - 1}/*",
    "another unit": lambda start, end, total: f"lines {start}-{end - 1}/{total}",
    "nonsense": lambda start, end, total: "bytes",
    "backwards": lambda start, end, total: f"bytes {end - 1}-{start}/{total}",
    "beyond the end": lambda start, end, total: f"bytes {start}-{end - 1}/{end - 1}",
    "a total that grows": lambda start, end, total: f"bytes {start}-{end - 1}/{total + 1}",
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("from_the_start", [True, False])
def test_mislabelled_parts_are_rejected(
    lie: str, from_the_start: bool, server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    """After a shifted or malformed ``Content-Range``, the whole file is requested."""
    file.cut_after = None if from_the_start else MIB

    def shifted(exchange: Exchange, start: int, end: int) -> bool:
        if "range" not in exchange.request.headers:
            exchange.respond(200, DATA)
            return True
        if not start and not from_the_start:
            return False
        body = OTHER[start:end]
        exchange.respond(206, body, {"Content-Range": LIES[lie](start, end, len(DATA)), "ETag": '"v1"'})
        return True

    file.twist = shifted
    if not from_the_start and lie == "a total that grows":
        fetcher.fail(server.url("/file"), TransientError, ErrorCode.SOURCE_INCOMPLETE)
    else:
        assert fetch(fetcher, server, 1) == DATA


@pytest.mark.parametrize("delta", [-1000, 1000])
def test_length_that_contradicts_the_range_is_rejected(
    delta: int, connections: int, server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    file.cut_after = 2 * MIB

    def lying(exchange: Exchange, start: int, end: int) -> bool:
        if not start or "range" not in exchange.request.headers:
            return False
        exchange.head(
            206,
            {
                "Content-Range": f"bytes {start}-{end - 1}/{len(DATA)}",
                "ETag": '"v1"',
                "Content-Length": str(end - start + delta),
            },
        )
        exchange.send(OTHER[start:end])
        return True

    def whole(exchange: Exchange, start: int, end: int) -> bool:
        if "range" not in exchange.request.headers:
            file.cut_after = None
        return lying(exchange, start, end)

    file.twist = whole
    assert fetch(fetcher, server, connections) == DATA


def flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


@pytest.mark.parametrize("checksum", [SUM, Checksum("md5", hashlib.md5(DATA).hexdigest())])
def test_flipped_byte_is_detected(
    checksum: Checksum, connections: int, server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    file.data = flip(DATA, 3 * MIB)
    fetcher.fail(
        server.url("/file"), TransientError, ErrorCode.SOURCE_CORRUPT, max_connections=connections, checksum=checksum
    )


def test_damaged_file_is_fetched_once_more(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    file.data = flip(DATA, 17)

    def repair(sent: int) -> None:
        if sent >= len(DATA):
            file.data = DATA

    file.on_block = repair
    assert fetch(fetcher, server, 1, SUM) == DATA


DIGESTS = {
    "Repr-Digest": f"sha-256=:{base64.b64encode(hashlib.sha256(DATA).digest()).decode()}:",
    "Digest": f"sha-256={base64.b64encode(hashlib.sha256(DATA).digest()).decode()}",
    "Content-MD5": base64.b64encode(hashlib.md5(DATA).digest()).decode(),
    "x-goog-hash": f"crc32c=AAAAAA==,md5={base64.b64encode(hashlib.md5(DATA).digest()).decode()}",
}


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("header", DIGESTS)
def test_announced_checksum_is_verified(
    header: str, ranges: bool, server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    file.headers, file.ranges = {header: DIGESTS[header]}, ranges
    assert fetch(fetcher, server, 1) == DATA
    (fetcher.folder / "audio").unlink()
    file.data = flip(DATA, 1)
    fetcher.fail(server.url("/file"), TransientError, ErrorCode.SOURCE_CORRUPT)


def test_connection_cut_every_half_mebibyte(
    connections: int, server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    file.cut_after = MIB // 2
    assert fetch(fetcher, server, connections) == DATA
    assert file.sent <= len(DATA) + connections * 65536, "received bytes are not fetched again"


def test_source_that_closes_every_connection_is_unavailable(
    server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    def close(exchange: Exchange, start: int, end: int) -> bool:
        return start > 0

    file.cut_after, file.twist = MIB, close
    fetcher.fail(server.url("/file"), TransientError, ErrorCode.SOURCE_UNAVAILABLE)


def test_stalled_single_connection_is_retried(server: SourceServer, file: RangedFile, fetcher: Fetcher) -> None:
    stalls = iter([True])

    def stall(sent: int) -> None:
        if sent > MIB and next(stalls, False):
            file.twist = None
            raise ConnectionResetError

    file.on_block = stall
    limits = replace(LIMITS, stall_timeout=0.5)
    assert fetcher.fetch(server.url("/file"), limits=limits).path.read_bytes() == DATA


def test_dripping_part_times_out(server: SourceServer, fetcher: Fetcher) -> None:
    head = f"bytes 0-{len(DATA) - 1}/{len(DATA)}"

    def trickle(exchange: Exchange) -> None:
        exchange.head(206, {"Content-Range": head, "ETag": '"v1"', "Content-Length": str(len(DATA))})
        while exchange.pause(0.02):
            exchange.send(b"x")

    server.add("/file", trickle)
    fetcher.fail(server.url("/file"), TransientError, ErrorCode.SOURCE_TIMEOUT, max_connections=4, total_timeout=1.0)


def test_gzip_bomb_in_parts_is_rejected(server: SourceServer, fetcher: Fetcher) -> None:
    bomb = gzip.compress(bytes(MIB))
    file = RangedFile(bomb, headers={"Content-Encoding": "gzip"})
    server.add("/file", file)
    fetcher.fail(server.url("/file"), PermanentError, ErrorCode.SOURCE_PROTOCOL)


def test_surplus_of_a_part_is_ignored(server: SourceServer, fetcher: Fetcher) -> None:
    """Bytes beyond the announced range are not read."""

    def endless(exchange: Exchange) -> None:
        exchange.head(206, {"Content-Range": f"bytes 0-{len(DATA) - 1}/{len(DATA)}", "ETag": '"v1"'})
        exchange.send(DATA)
        while exchange.pause(0):
            exchange.send(bytes(65536))

    server.add("/file", endless)
    assert fetch(fetcher, server, 4) == DATA


@pytest.mark.parametrize("total", [10**17, 10**7 + 1])
def test_part_of_a_file_that_is_too_large_is_rejected(total: int, server: SourceServer, fetcher: Fetcher) -> None:
    def huge(exchange: Exchange) -> None:
        exchange.head(206, {"Content-Range": f"bytes 0-{total - 1}/{total}", "ETag": '"v1"'})

    server.add("/file", huge)
    fetcher.fail(server.url("/file"), PermanentError, ErrorCode.SOURCE_TOO_LARGE)


BEHIND_A_LIMIT = """
import resource, sys
from pathlib import Path
from pipeline.cancellation import CancelToken
from pipeline.download import DownloadLimits, UrlGuard, download
from pipeline.errors import InfrastructureError
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
limits = DownloadLimits(10**8, 10, 10, 20, max_connections=4)
try:
    download(sys.argv[1], Path(sys.argv[2]) / "x", guard=UrlGuard(True), limits=limits, cancel=CancelToken())
except InfrastructureError as error:
    print("infrastructure", error.code, file=sys.stderr)
    sys.exit(7)
"""


@pytest.mark.parametrize("ranges", [True, False])
def test_full_disk_is_an_infrastructure_error(
    ranges: bool, server: SourceServer, file: RangedFile, tmp_path: Path
) -> None:
    file.ranges = ranges
    command = [sys.executable, "-c", BEHIND_A_LIMIT, server.url("/file"), str(tmp_path), str(2 * MIB)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 7, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", range(6))
def test_random_faults_never_give_wrong_bytes(
    seed: int, server: SourceServer, file: RangedFile, fetcher: Fetcher
) -> None:
    """Random faults, half of them transient: a download that succeeds is right."""
    rng = random.Random(seed)
    file.rate = 4.0 * MIB
    file.max_connections = rng.choice([None, 2, 3])
    file.cut_after = rng.choice([None, MIB // 2, MIB])
    change = rng.choice([None, 2 * MIB])
    if change:
        replace_at(file, change)

    def fault(exchange: Exchange, start: int, end: int) -> bool:
        match rng.randrange(8):
            case 0:
                exchange.respond(rng.choice([429, 500, 503]), headers={"Retry-After": "0"})
            case 1:
                exchange.reset()
            case 2 if start:
                exchange.respond(200, file.data, {"ETag": file.etag or '"v1"'})
            case _:
                return False
        return True

    file.twist = fault
    try:
        got = fetch(fetcher, server, rng.choice([1, 3, 6]))
    except TransientError:
        assert list(fetcher.folder.iterdir()) == []
    else:
        assert got in ((DATA, OTHER) if change else (DATA,))
