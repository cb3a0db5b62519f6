"""The journal records only bytes that were written, even if the process or the power fails."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.download.checksum import Checksum
from pipeline.download.parallel.journal import Entry, EntryBuilder, Identity, Journal
from pipeline.download.parallel.range_allocator import ByteRange, missing_ranges
from pipeline.download.parallel.resume import ResumeState, journal_path
from pipeline.download.validators import Validator
from pipeline.errors import ErrorCode, InfrastructureError

IDENTITY = Identity("u", 1000, '"v1"', None, None)
URL = "http://source.test/model"


def entries(*spans: tuple[int, int]) -> list[Entry]:
    return [Entry(ByteRange(*span), '"v1"', sum(span)) for span in spans]


def test_entries_survive_reopening(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    assert journal.identity() is None
    journal.begin(IDENTITY)
    journal.add(entries((0, 10), (20, 30)))
    journal.close()
    again = Journal(tmp_path / "j")
    assert again.identity() == IDENTITY
    assert again.entries() == entries((0, 10), (20, 30))
    again.revoke(ByteRange(25, 26))
    assert again.entries() == entries((0, 10))
    again.add(entries((20, 27)))
    assert again.entries() == entries((0, 10), (20, 27))
    again.clear()
    assert (again.identity(), again.entries()) == (None, [])
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_documented_columns_exist(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.begin(IDENTITY)
    journal.add(entries((0, 10)))
    journal.close()
    with sqlite3.connect(tmp_path / "j") as database:
        rows = database.execute("SELECT start, end, status, etag, hash FROM piece").fetchall()
    database.close()
    assert rows == [(0, 10, "done", '"v1"', 10)]


def test_second_process_is_rejected(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    with pytest.raises(InfrastructureError, match="in use by another process") as caught:
        Journal(tmp_path / "j")
    assert caught.value.code is ErrorCode.STORAGE_UNAVAILABLE
    journal.close()
    Journal(tmp_path / "j").close()


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + bytes(4000)])
def test_unreadable_journal_is_replaced(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(content)
    journal = Journal(tmp_path / "j")
    assert journal.identity() is None
    journal.begin(IDENTITY)
    journal.close()


def test_journal_of_another_version_is_replaced(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.begin(IDENTITY)
    journal.close()
    with sqlite3.connect(tmp_path / "j") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    journal = Journal(tmp_path / "j")
    assert journal.identity() is None
    journal.close()


def test_missing_folder_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError) as caught:
        Journal(tmp_path / "missing" / "j")
    assert caught.value.code is ErrorCode.STORAGE_UNAVAILABLE
    assert "missing" not in caught.value.message


@given(
    st.integers(0, 200),
    st.integers(1, 50),
    st.lists(st.tuples(st.sampled_from([0, 0, 0, 7, 60]), st.binary(min_size=1, max_size=120)), max_size=8),
)
def test_entries_end_at_piece_boundaries_and_gaps(start: int, piece: int, blocks: list[tuple[int, bytes]]) -> None:
    builder = EntryBuilder(start, piece, None)
    position = start
    found: list[Entry] = []
    expected: dict[int, int] = {}
    for gap, block in blocks:
        position += gap
        found += builder.add(position, memoryview(block))
        expected |= dict(enumerate(block, position))
        position += len(block)
    found += builder.finish()
    assert [byte for entry in found for byte in range(*entry.span)] == list(expected)
    for entry in found:
        assert entry.span.start // piece == (entry.span.end - 1) // piece
        assert entry.hash == zlib.crc32(bytes(expected[byte] for byte in range(*entry.span)))


def resume_state(target: Path, url: str = URL, checksum: Checksum | None = None) -> ResumeState:
    return ResumeState(target, url, checksum, resume=True)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), min_size=1, max_size=10),
    damage=st.lists(st.integers(0, 999), max_size=3),
)
def test_only_intact_bytes_are_trusted_after_a_power_cut(
    steps: list[tuple[int, bool, bool]], damage: list[int], tmp_path: Path
) -> None:
    """Any write to the file or the journal may be the last one or be lost, and the file may be damaged."""
    data = bytes(byte % 251 for byte in range(1000))
    folder = tmp_path / os.urandom(8).hex()
    folder.mkdir()
    before = resume_state(folder / "model")
    file = before.begin(len(data), Validator('"v1"'))
    for number, on_disk, in_journal in steps:
        span = ByteRange(number * 100, number * 100 + 100)
        chunk = memoryview(data)[span.start : span.end]
        if on_disk:
            file.write(span.start, chunk)
        if in_journal:
            assert before.journal is not None
            before.journal.add([Entry(span, '"v1"', zlib.crc32(chunk))])
    for position in damage:
        file.write(position, memoryview(b"\xff"))
    crash = shutil.copytree(folder, folder.with_suffix(".crash"))  # the state of the disk when the process ends
    before.close()
    after = resume_state(crash / "model")
    identity = after.load(lambda: None)
    for start, end in after.verified_ranges:
        assert (crash / "model.part").read_bytes()[start:end] == data[start:end]
    written = {number for number, on_disk, _ in steps if on_disk}
    entered = {number for number, _, in_journal in steps if in_journal}
    whole = (written & entered) - {position // 100 for position in damage}
    assert {span.start // 100 for span in after.verified_ranges} >= whole, "intact bytes are not fetched twice"
    assert (identity is not None) == bool(after.verified_ranges)
    after.close()


def begin_download(target: Path, checksum: Checksum | None = None, validator: Validator | None = None) -> None:
    before = resume_state(target, checksum=checksum)
    file = before.begin(4, Validator('"v1"') if validator is None else validator)
    file.write(0, memoryview(b"ab"))
    assert before.journal is not None
    before.journal.add([Entry(ByteRange(0, 2), None, zlib.crc32(b"ab"))])
    before.keep = True
    before.close()


SUM = Checksum("md5", "0" * 32)
OTHER_SUM = Checksum("md5", "1" * 32)


@pytest.mark.parametrize(
    ("checksums", "url", "validator", "resumed"),
    [
        ((None, None), URL, Validator('"v1"'), True),
        ((None, None), URL, Validator(modified="Mon, 01 Jan 2024 00:00:00 GMT"), True),
        ((None, None), URL + "?v=2", Validator('"v1"'), False),
        ((None, None), URL, Validator(), False),
        ((SUM, SUM), URL + "?v=2", Validator(), True),
        ((SUM, OTHER_SUM), URL, Validator('"v1"'), False),
        ((None, SUM), URL, Validator('"v1"'), False),
    ],
)
def test_resumable_downloads(
    checksums: tuple[Checksum | None, Checksum | None], url: str, validator: Validator, resumed: bool, tmp_path: Path
) -> None:
    begin_download(tmp_path / "model", checksums[0], validator)
    after = resume_state(tmp_path / "model", url, checksums[1])
    assert (after.load(lambda: None) is not None) is resumed
    assert list(missing_ranges(4, after.verified_ranges)) == [ByteRange(2, 4) if resumed else ByteRange(0, 4)]
    after.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("loss", ["part", "cut", "journal"])
def test_part_file_and_journal_are_both_required(loss: str, tmp_path: Path) -> None:
    target = tmp_path / "model"
    begin_download(target)
    match loss:
        case "part":
            target.with_name("model.part").unlink()
        case "cut":
            os.truncate(target.with_name("model.part"), 1)
        case "journal":
            journal_path(target).unlink()
    after = resume_state(target)
    assert after.load(lambda: None) is None
    after.close()


def test_kill_during_writes_leaves_complete_entries(tmp_path: Path) -> None:
    """The killed process writes entries as fast as it can."""
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from pipeline.download.parallel.journal import *\n"
        "from pipeline.download.parallel.range_allocator import ByteRange\n"
        "journal = Journal(Path(sys.argv[1]))\njournal.begin(Identity('u', 10**9, None, None, None))\n"
        "for number in range(10**9):\n"
        "    journal.add([Entry(ByteRange(number, number + 1), None, number)])\n"
        "    print(number, flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, tmp_path / "j"], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child, child.stdout:
        reported = [int(child.stdout.readline()) for _ in range(50)]
        child.kill()
        reported += [int(line) for line in child.stdout if line.endswith("\n")]
    journal = Journal(tmp_path / "j")
    found = journal.entries()
    assert [entry.hash for entry in found] == list(range(len(found)))
    assert len(found) > max(reported), "every reported entry exists"
    journal.close()
