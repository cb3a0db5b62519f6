"""The server behind the figures: honest where it should be, and dishonest in exactly the way that it says."""

from __future__ import annotations

import base64
import gzip
import hashlib
import struct
from http.client import IncompleteRead

import pytest

from benchmarks.download.link import reflected
from benchmarks.download.misbehaviour import BOMB_BYTES, FAULTS, LIE
from benchmarks.download.profile import MIB, Profile
from tests.benchmarks.conftest import SIZE, Visits


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-", 0, SIZE),
        ("bytes=5-9", 5, 10),
        (f"bytes={SIZE - 3}-{SIZE + 9}", SIZE - 3, SIZE),
        ("bytes=-7", -7, SIZE),
    ],
)
def test_a_range_is_what_was_asked_for(visits: Visits, asked: str, start: int, end: int) -> None:
    visit = visits.to("")
    response = visit.head(Range=asked)
    first = start % SIZE
    assert response.status == 206
    assert response.headers["Content-Range"] == f"bytes {first}-{end - 1}/{SIZE}"
    assert response.read() == visit.old[start:end]


def test_no_range_or_a_senseless_one_is_the_whole_file(visits: Visits) -> None:
    visit = visits.to("")
    assert visit.get() == (200, visit.old)
    assert visit.get(Range="lines=1-2") == (200, visit.old)
    assert visit.get(Range=f"bytes={SIZE}-") == (416, b"")
    assert visit.head("HEAD").headers["Content-Length"] == str(SIZE)


def test_conditions_hold_for_the_present_file_only(visits: Visits) -> None:
    visit = visits.to("")
    etag = visit.head("HEAD").headers["ETag"]
    assert visit.get(If_Match=etag, Range="bytes=0-1") == (206, visit.old[:2])
    assert visit.get(If_Match='"another"', Range="bytes=0-1")[0] == 412
    assert visit.get(If_Range=etag, Range="bytes=0-1")[0] == 206
    assert visit.get(If_Range='"another"', Range="bytes=0-1") == (200, visit.old)


def test_a_run_is_told_what_it_had(visits: Visits) -> None:
    visit = visits.to("")
    visit.get(Range="bytes=0-99")
    visit.get(Range="bytes=100-299")
    assert visit.job.figures() == {"delivered": 300, "requests": 2, "connections": 1}


def test_the_file_is_replaced_after_two_answers(visits: Visits) -> None:
    visit = visits.to("replaced")
    etag = visit.head("HEAD").headers["ETag"]
    assert [visit.get()[1] == visit.old for _ in range(3)] == [True, True, False]
    assert visit.get(Range="bytes=0-9") == (206, visit.new[:10])
    assert visit.get(Range="bytes=0-9", If_Match=etag)[0] == 412


def test_the_file_is_replaced_and_the_connections_cut(visits: Visits) -> None:
    visit = visits.to("replaced-and-cut")
    with pytest.raises(IncompleteRead) as caught:
        visit.get()
    assert caught.value.partial == visit.old[: SIZE // 2]
    assert visit.get() == (200, visit.new)


def test_ranges_are_no_longer_honoured(visits: Visits) -> None:
    visit = visits.to("forced-200")
    assert visit.get(Range="bytes=9-")[0] == 206
    assert visit.get(Range="bytes=9-") == (200, visit.old)


def test_a_byte_is_wrong_once(visits: Visits) -> None:
    visit = visits.to("flipped-digest")
    response = visit.head()
    digest = base64.b64encode(hashlib.sha256(visit.old).digest()).decode()
    assert response.headers["Repr-Digest"] == f"sha-256=:{digest}:"
    assert [a != b for a, b in zip(response.read(), visit.old, strict=True)].count(True) == 1
    assert visit.get() == (200, visit.old)


def test_lengths_lie_in_both_directions(visits: Visits) -> None:
    with pytest.raises(IncompleteRead) as caught:
        visits.to("too-long").get()
    assert caught.value.expected == LIE
    visit = visits.to("too-short")
    assert visit.get() == (200, visit.old[:-LIE])
    assert visits.to("negative").head().headers["Content-Length"] == "-1"


def test_the_bomb_goes_off(visits: Visits) -> None:
    response = visits.to("bomb").head()
    assert response.headers["Content-Encoding"] == "gzip"
    with gzip.open(response) as file:
        assert sum(len(chunk) for chunk in iter(lambda: file.read(MIB), b"")) == BOMB_BYTES


def test_a_profile_survives_its_url() -> None:
    profile = Profile(3 * MIB, rate=5, shared_rate=7, round_trip=0.18, congestion="cubic", fault="drip")
    assert Profile.parse(profile.path("run").partition("?")[2]) == profile
    assert profile.fault in FAULTS


def test_a_reflected_packet_has_changed_sides() -> None:
    addresses = (b"\x0a\x00\x00\x01", b"\x0a\x00\x00\x02")
    packet = bytes(range(12)) + b"".join(addresses) + struct.pack("!HH", 1234, 80) + b"payload"
    assert reflected(packet) == packet[:12] + addresses[1] + addresses[0] + packet[20:]
