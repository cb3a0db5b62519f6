"""The journal records only bytes that were written, even if the process or the power fails."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.download.checksum import Checksum
from pipeline.download.journal import Identity, Journal, JournalEntry, PieceRecorder
from pipeline.download.parallel.range_allocator import ByteRange, missing_ranges
from pipeline.download.resume import ResumeState, journal_path
from pipeline.download.validators import Validator
from pipeline.errors import ErrorCode, InfrastructureError

IDENTITY = Identity("u", 1000, '"v1"', None, None)
PIECES = [JournalEntry(0, 10, 1), JournalEntry(20, 30, 2)]
URL = "http://source.test/model"


def begun(path: Path, *pieces: JournalEntry) -> None:
    """Leave a journal with ``pieces``."""
    journal = Journal(path)
    journal.write(IDENTITY, pieces)
    journal.close()


def loaded(path: Path) -> tuple[Identity | None, list[JournalEntry]]:
    journal = Journal(path)
    try:
        return journal.load()
    finally:
        journal.close()


def test_pieces_survive_reopening(tmp_path: Path) -> None:
    path = tmp_path / "j"
    assert loaded(path) == (None, [])
    begun(path, PIECES[0])
    journal = Journal(path)
    journal.add(PIECES[1])
    assert journal.load() == (IDENTITY, PIECES)
    journal.write(IDENTITY, PIECES[1:])
    journal.close()
    assert loaded(path) == (IDENTITY, PIECES[1:])
    journal = Journal(path)
    journal.write(None)
    assert journal.load() == (None, [])
    journal.remove()
    assert list(tmp_path.iterdir()) == []


def test_file_is_for_its_owner_and_may_be_gone_when_it_is_removed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    assert (tmp_path / "j").stat().st_mode & 0o777 == 0o600
    (tmp_path / "j").unlink()
    journal.remove()
    journal.close()


def test_documented_lines_are_written(tmp_path: Path) -> None:
    begun(tmp_path / "j", *PIECES)
    assert (tmp_path / "j").read_text().splitlines() == [
        '{"url": "u", "total": 1000, "etag": "\\"v1\\"", "modified": null, "checksum": null}',
        "[0, 10, 1]",
        "[20, 30, 2]",
    ]


def test_second_process_is_rejected(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    with pytest.raises(InfrastructureError, match="in use by another process") as caught:
        Journal(tmp_path / "j")
    assert caught.value.code is ErrorCode.STORAGE_UNAVAILABLE
    journal.close()
    Journal(tmp_path / "j").close()


@pytest.mark.parametrize(
    "content",
    [b"no journal at all" * 100, b"SQLite format 3\0" + bytes(4000), b"[]\n", b'{"url": 1}\n', b"\xff\n", b"1\n"],
)
def test_unreadable_journal_records_nothing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(content)
    assert loaded(tmp_path / "j") == (None, [])
    begun(tmp_path / "j", *PIECES)
    assert loaded(tmp_path / "j") == (IDENTITY, PIECES)


@pytest.mark.parametrize("cut", range(1, 12))
def test_line_that_was_cut_off_is_ignored(cut: int, tmp_path: Path) -> None:
    begun(tmp_path / "j", *PIECES)
    os.truncate(tmp_path / "j", (tmp_path / "j").stat().st_size - cut)
    assert loaded(tmp_path / "j") == (IDENTITY, PIECES[:1])


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
def test_pieces_hold_exactly_the_written_bytes(start: int, size: int, blocks: list[tuple[int, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "j")
        journal.write(IDENTITY)
        recorder, position = PieceRecorder(journal, start, size), start
        expected: dict[int, int] = {}
        for gap, block in blocks:
            position += gap
            recorder.add(position, memoryview(block))
            expected |= dict(enumerate(block, position))
            position += len(block)
            _, pieces = journal.load()
            assert len(expected) - sum(piece.end - piece.start for piece in pieces) < size
        recorder.finish()
        _, pieces = journal.load()
        journal.close()
    assert [byte for piece in pieces for byte in range(piece.start, piece.end)] == list(expected)
    for piece in pieces:
        assert piece.crc == zlib.crc32(bytes(expected[byte] for byte in range(piece.start, piece.end)))


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
            before.journal.add(JournalEntry(*span, zlib.crc32(chunk)))
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
    before.journal.add(JournalEntry(0, 2, zlib.crc32(b"ab")))
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


def test_kill_during_writes_leaves_complete_lines(tmp_path: Path) -> None:
    """The killed process writes pieces as fast as it can."""
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from pipeline.download.journal import *\n"
        "journal = Journal(Path(sys.argv[1]))\njournal.write(Identity('u', 10**9, None, None, None))\n"
        "for number in range(10**9):\n"
        "    journal.add(JournalEntry(number, number + 1, number))\n"
        "    print(number, flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, tmp_path / "j"], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child, child.stdout:
        reported = [int(child.stdout.readline()) for _ in range(50)]
        child.kill()
        reported += [int(line) for line in child.stdout if line.endswith("\n")]
    _, found = loaded(tmp_path / "j")
    assert [piece.crc for piece in found] == list(range(len(found)))
    assert len(found) > max(reported), "every reported piece exists"


def test_journal_removed_by_its_previous_owner_is_made_anew(tmp_path: Path) -> None:
    """A lock on a file that has no name any more would not keep a third process away."""
    owner = Journal(tmp_path / "j")
    removed = threading.Event()
    flock = fcntl.flock

    def remove_before_lock(descriptor: int, operation: int) -> None:
        if not removed.is_set():
            removed.set()
            owner.remove()
        flock(descriptor, operation)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", remove_before_lock)
        journal = Journal(tmp_path / "j")
    journal.write(IDENTITY)
    with pytest.raises(InfrastructureError, match="in use"):
        Journal(tmp_path / "j")
    journal.close()
    assert loaded(tmp_path / "j") == (IDENTITY, [])
