"""Several places with one file: the fastest first, the origin last, and from one to the next in the middle of it."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from pipeline.download import Checksum
from pipeline.errors import ErrorCode, PermanentError, TransientError
from tests.pipeline.download.fetching import Fetcher
from tests.support.ranged_source import RangedFile
from tests.support.source_server import Exchange, SourceServer, answer, content, silence

MIB = 1024**2
DATA = random.Random(6).randbytes(3 * MIB + 99)
PIECES = Checksum(
    "sha256",
    hashlib.sha256(DATA).hexdigest(),
    MIB,
    tuple(hashlib.sha256(DATA[start : start + MIB]).hexdigest() for start in range(0, len(DATA), MIB)),
)
SUM = Checksum("sha256", PIECES.hexdigest)


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
    served = RangedFile(DATA, etag='"of the mirror"')
    server.add("/mirror", served)
    return served


def fetch(fetcher: Fetcher, server: SourceServer, *mirrors: str, checksum: Checksum = SUM) -> str:
    """The path of the source that delivered, the file being right."""
    got = fetcher.fetch(server.url("/origin"), mirrors=[server.url(path) for path in mirrors], checksum=checksum)
    assert got.path.read_bytes() == DATA
    assert got.source is not None
    return got.source.removeprefix(server.url(""))


def test_a_mirror_is_asked_before_the_origin(
    server: SourceServer, origin: RangedFile, mirror: RangedFile, fetcher: Fetcher
) -> None:
    assert fetch(fetcher, server, "/mirror") == "/mirror"
    assert origin.sent == 1, "it was asked how long the file is"


def test_the_mirror_that_answers_first_is_asked_first(
    server: SourceServer, origin: RangedFile, mirror: RangedFile, fetcher: Fetcher
) -> None:
    def late(exchange: Exchange) -> None:
        exchange.pause(0.5)
        mirror(exchange)

    server.add("/late", late)
    assert fetch(fetcher, server, "/late", "/mirror") == "/mirror"


@pytest.mark.parametrize(
    "behaviour",
    [answer(404), answer(500), content(DATA[:-1]), content(DATA + b"x"), lambda exchange: exchange.reset()],
    ids=["missing", "broken", "shorter", "longer", "reset"],
)
def test_an_unfit_mirror_is_left_out(
    behaviour: object, server: SourceServer, origin: RangedFile, fetcher: Fetcher
) -> None:
    server.add("/mirror", behaviour)  # type: ignore[arg-type]
    assert fetch(fetcher, server, "/mirror") == "/origin"


def test_a_silent_mirror_holds_nothing_up(
    server: SourceServer, origin: RangedFile, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.download.mirrors.PROBE_TIME", 0.3)
    server.add("/silent", silence)
    assert fetch(fetcher, server, "/silent") == "/origin"


def test_a_mirror_without_parts_will_do(server: SourceServer, origin: RangedFile, fetcher: Fetcher) -> None:
    server.add("/mirror", content(DATA))
    assert fetch(fetcher, server, "/mirror") == "/mirror"


def test_mirrors_help_where_the_origin_is_gone(server: SourceServer, mirror: RangedFile, fetcher: Fetcher) -> None:
    assert fetch(fetcher, server, "/mirror") == "/mirror"


def test_what_a_mirror_has_given_is_kept_when_it_fails(
    server: SourceServer, origin: RangedFile, mirror: RangedFile, fetcher: Fetcher
) -> None:
    def gone(exchange: Exchange, start: int, end: int) -> bool:
        if start:
            exchange.respond(404)
        return start > 0

    mirror.cut_after, mirror.twist = MIB, gone
    assert fetch(fetcher, server, "/mirror") == "/origin"
    assert origin.sent == len(DATA) - MIB + 1


def test_a_mirror_that_gives_a_bad_piece_is_asked_no_more(
    server: SourceServer, origin: RangedFile, mirror: RangedFile, fetcher: Fetcher
) -> None:
    mirror.data = DATA[: 2 * MIB] + b"!" + DATA[2 * MIB + 1 :]
    assert fetch(fetcher, server, "/mirror", checksum=PIECES) == "/origin"
    assert origin.given[-1] == (2 * MIB, 3 * MIB)


@pytest.mark.parametrize("parts", [True, False])
def test_a_mirror_with_another_file_of_the_same_length(
    parts: bool, server: SourceServer, origin: RangedFile, mirror: RangedFile, fetcher: Fetcher
) -> None:
    mirror.data, mirror.ranges = bytes(len(DATA)), parts
    assert fetch(fetcher, server, "/mirror") == "/origin"


def test_all_sources_are_wrong(server: SourceServer, origin: RangedFile, mirror: RangedFile, fetcher: Fetcher) -> None:
    origin.data = mirror.data = bytes(len(DATA))
    mirrors = [server.url("/mirror")]
    fetcher.fail(server.url("/origin"), TransientError, ErrorCode.SOURCE_CORRUPT, mirrors=mirrors, checksum=SUM)


def test_no_source_has_it(server: SourceServer, fetcher: Fetcher) -> None:
    mirrors = [server.url("/mirror")]
    fetcher.fail(server.url("/origin"), PermanentError, ErrorCode.SOURCE_NOT_FOUND, mirrors=mirrors, checksum=SUM)


def test_mirrors_need_a_checksum(server: SourceServer, fetcher: Fetcher) -> None:
    with pytest.raises(ValueError, match="checksum"):
        fetcher.fetch(server.url("/origin"), mirrors=[server.url("/mirror")])
    assert server.requests == []


def test_mirrors_are_checked_like_any_url(server: SourceServer, origin: RangedFile, fetcher: Fetcher) -> None:
    fetcher.fail(
        server.url("/origin"), PermanentError, ErrorCode.URL_INVALID, mirrors=["file:///etc/passwd"], checksum=SUM
    )
    assert server.requests == []
