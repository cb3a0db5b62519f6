"""Mirrors: in the given order, the origin last, and failover in the middle of a file."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.download import Checksum
from pipeline.errors import ErrorCode, PermanentError, TransientError
from tests.pipeline.download.fetching import LIMITS, Fetcher
from tests.support.ranged_source import RangedFile
from tests.support.source_server import Exchange, SourceServer, answer, content, silence

MIB = 1024**2
DATA = random.Random(6).randbytes(3 * MIB + 99)
SUM = Checksum("sha256", hashlib.sha256(DATA).hexdigest())


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path)


@pytest.fixture
def origin(server: SourceServer) -> RangedFile:
    served = RangedFile(DATA)
    server.add("/origin", served)
    return served


@pytest.fixture
def mirror(server: SourceServer) -> RangedFile:
    served = RangedFile(DATA, etag='"mirror"')
    server.add("/mirror", served)
    return served


def fetch(fetcher: Fetcher, server: SourceServer, *mirrors: str, checksum: Checksum = SUM) -> str:
    """Download, check the bytes, and return the path of the source that delivered."""
    got = fetcher.fetch(server.url("/origin"), mirrors=[server.url(path) for path in mirrors], checksum=checksum)
    assert got.path.read_bytes() == DATA
    assert got.source is not None
    return got.source.removeprefix(server.url(""))


def test_mirrors_are_used_in_order_before_the_origin(
    server: SourceServer, origin: RangedFile, mirror: RangedFile, fetcher: Fetcher
) -> None:
    other = RangedFile(DATA)
    server.add("/other", other)
    assert fetch(fetcher, server, "/mirror", "/other") == "/mirror"
    assert (origin.sent, other.sent) == (0, 0)


@pytest.mark.parametrize(
    "behaviour",
    [answer(404), answer(500), content(DATA[:-1]), content(DATA + b"x"), lambda exchange: exchange.reset()],
    ids=["missing", "broken", "shorter", "longer", "reset"],
)
def test_unusable_mirror_is_skipped(
    behaviour: object, server: SourceServer, origin: RangedFile, fetcher: Fetcher
) -> None:
    server.add("/mirror", behaviour)  # type: ignore[arg-type]
    assert fetch(fetcher, server, "/mirror") == "/origin"


def test_silent_mirror_is_given_up_after_the_stall_timeout(
    server: SourceServer, origin: RangedFile, fetcher: Fetcher
) -> None:
    server.add("/silent", silence)
    mirrors, limits = [server.url("/silent")], replace(LIMITS, stall_timeout=0.3)
    got = fetcher.fetch(server.url("/origin"), limits=limits, mirrors=mirrors, checksum=SUM)
    assert got.source == server.url("/origin")


def test_mirror_without_range_support_is_used(server: SourceServer, origin: RangedFile, fetcher: Fetcher) -> None:
    server.add("/mirror", content(DATA))
    assert fetch(fetcher, server, "/mirror") == "/mirror"


def test_mirror_replaces_a_missing_origin(server: SourceServer, mirror: RangedFile, fetcher: Fetcher) -> None:
    assert fetch(fetcher, server, "/mirror") == "/mirror"


def test_failover_keeps_the_bytes_of_a_failed_mirror(
    server: SourceServer, origin: RangedFile, mirror: RangedFile, fetcher: Fetcher
) -> None:
    def fail_later(exchange: Exchange, start: int, end: int) -> bool:
        if start:
            exchange.respond(404)
        return start > 0

    mirror.cut_after, mirror.twist = MIB, fail_later
    assert fetch(fetcher, server, "/mirror") == "/origin"
    assert origin.sent == len(DATA) - MIB


def test_mirror_with_wrong_bytes_is_not_used_again(
    server: SourceServer, origin: RangedFile, mirror: RangedFile, fetcher: Fetcher
) -> None:
    mirror.data = DATA[: 2 * MIB] + b"!" + DATA[2 * MIB + 1 :]
    assert fetch(fetcher, server, "/mirror", checksum=SUM) == "/origin"
    assert origin.sent == len(DATA)


@pytest.mark.parametrize("parts", [True, False])
def test_mirror_with_another_file_of_the_same_size_is_rejected(
    parts: bool, server: SourceServer, origin: RangedFile, mirror: RangedFile, fetcher: Fetcher
) -> None:
    mirror.data, mirror.ranges = bytes(len(DATA)), parts
    assert fetch(fetcher, server, "/mirror") == "/origin"


def test_wrong_bytes_from_all_sources(
    server: SourceServer, origin: RangedFile, mirror: RangedFile, fetcher: Fetcher
) -> None:
    origin.data = mirror.data = bytes(len(DATA))
    mirrors = [server.url("/mirror")]
    fetcher.fail(server.url("/origin"), TransientError, ErrorCode.SOURCE_CORRUPT, mirrors=mirrors, checksum=SUM)


def test_file_missing_at_all_sources(server: SourceServer, fetcher: Fetcher) -> None:
    mirrors = [server.url("/mirror")]
    fetcher.fail(server.url("/origin"), PermanentError, ErrorCode.SOURCE_NOT_FOUND, mirrors=mirrors, checksum=SUM)


def test_mirrors_require_a_checksum(server: SourceServer, fetcher: Fetcher) -> None:
    with pytest.raises(ValueError, match="checksum"):
        fetcher.fetch(server.url("/origin"), mirrors=[server.url("/mirror")])
    assert server.requests == []


def test_mirror_urls_pass_the_guard(server: SourceServer, origin: RangedFile, fetcher: Fetcher) -> None:
    fetcher.fail(
        server.url("/origin"), PermanentError, ErrorCode.URL_INVALID, mirrors=["file:///etc/passwd"], checksum=SUM
    )
    assert server.requests == []
