"""The benchmark's server: correct responses, and exactly the configured faults."""

from __future__ import annotations

import base64
import gzip
import hashlib
import struct
from http.client import IncompleteRead

import pytest

from benchmarks.download.link import reflected
from benchmarks.download.server.misbehaviour import BOMB_BYTES, FAULTS, LIE
from benchmarks.download.server.profile import MIB, Profile
from tests.benchmarks.conftest import SIZE, Visits


@pytest.mark.parametrize(
    ("requested", "start", "end"),
    [
        ("bytes=0-", 0, SIZE),
        ("bytes=5-9", 5, 10),
        (f"bytes={SIZE - 3}-{SIZE + 9}", SIZE - 3, SIZE),
        ("bytes=-7", -7, SIZE),
    ],
)
def test_requested_range_is_served(visits: Visits, requested: str, start: int, end: int) -> None:
    visit = visits.to("")
    response = visit.head(Range=requested)
    first = start % SIZE
    assert response.status == 206
    assert response.headers["Content-Range"] == f"bytes {first}-{end - 1}/{SIZE}"
    assert response.read() == visit.old[start:end]


def test_missing_or_invalid_range_gives_the_whole_file(visits: Visits) -> None:
    visit = visits.to("")
    assert visit.get() == (200, visit.old)
    assert visit.get(Range="lines=1-2") == (200, visit.old)
    assert visit.get(Range=f"bytes={SIZE}-") == (416, b"")
    assert visit.head("HEAD").headers["Content-Length"] == str(SIZE)


def test_conditions_are_evaluated(visits: Visits) -> None:
    visit = visits.to("")
    etag = visit.head("HEAD").headers["ETag"]
    assert visit.get(If_Match=etag, Range="bytes=0-1") == (206, visit.old[:2])
    assert visit.get(If_Match='"another"', Range="bytes=0-1")[0] == 412
    assert visit.get(If_Range=etag, Range="bytes=0-1")[0] == 206
    assert visit.get(If_Range='"another"', Range="bytes=0-1") == (200, visit.old)


def test_counters_of_a_run(visits: Visits) -> None:
    visit = visits.to("")
    visit.get(Range="bytes=0-99")
    visit.get(Range="bytes=100-299")
    assert visit.job.figures() == {"delivered": 300, "requests": 2, "connections": 1}


def test_file_is_replaced_after_two_responses(visits: Visits) -> None:
    visit = visits.to("replaced")
    etag = visit.head("HEAD").headers["ETag"]
    assert [visit.get()[1] == visit.old for _ in range(3)] == [True, True, False]
    assert visit.get(Range="bytes=0-9") == (206, visit.new[:10])
    assert visit.get(Range="bytes=0-9", If_Match=etag)[0] == 412


def test_file_is_replaced_and_connections_are_cut(visits: Visits) -> None:
    visit = visits.to("replaced-and-cut")
    with pytest.raises(IncompleteRead) as caught:
        visit.get()
    assert caught.value.partial == visit.old[: SIZE // 2]
    assert visit.get() == (200, visit.new)


def test_second_range_request_gets_the_whole_file(visits: Visits) -> None:
    visit = visits.to("forced-200")
    assert visit.get(Range="bytes=9-")[0] == 206
    assert visit.get(Range="bytes=9-") == (200, visit.old)


def test_one_byte_is_flipped_once(visits: Visits) -> None:
    visit = visits.to("flipped-digest")
    response = visit.head()
    digest = base64.b64encode(hashlib.sha256(visit.old).digest()).decode()
    assert response.headers["Repr-Digest"] == f"sha-256=:{digest}:"
    assert [a != b for a, b in zip(response.read(), visit.old, strict=True)].count(True) == 1
    assert visit.get() == (200, visit.old)


def test_wrong_lengths_are_announced(visits: Visits) -> None:
    with pytest.raises(IncompleteRead) as caught:
        visits.to("too-long").get()
    assert caught.value.expected == LIE
    visit = visits.to("too-short")
    assert visit.get() == (200, visit.old[:-LIE])
    assert visits.to("negative").head().headers["Content-Length"] == "-1"


def test_gzip_bomb_has_the_configured_size(visits: Visits) -> None:
    response = visits.to("bomb").head()
    assert response.headers["Content-Encoding"] == "gzip"
    with gzip.open(response) as file:
        assert sum(len(chunk) for chunk in iter(lambda: file.read(MIB), b"")) == BOMB_BYTES


def test_profile_round_trip_through_its_url() -> None:
    profile = Profile(3 * MIB, rate=5, shared_rate=7, round_trip=0.18, congestion="cubic", fault="drip")
    assert Profile.parse(profile.path("run").partition("?")[2]) == profile
    assert profile.fault in FAULTS


def test_reflected_packet_has_exchanged_addresses() -> None:
    addresses = (b"\x0a\x00\x00\x01", b"\x0a\x00\x00\x02")
    packet = bytes(range(12)) + b"".join(addresses) + struct.pack("!HH", 1234, 80) + b"payload"
    assert reflected(packet) == packet[:12] + addresses[1] + addresses[0] + packet[20:]
