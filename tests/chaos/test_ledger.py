"""The ledger is on disk the moment something is written, and can be read after any end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.ledger import Answered, Asked, Command, Ledger, Reference, Told, read
from tests.chaos.report import page

ENTRIES = (
    Command(line="x", seed=1, digest="d", minutes=0.5, settings={"A": "b"}),
    Asked(post="p", song="one", priority=1, client="c"),
    Answered(post="p", status=None, seconds=1.0, why="ConnectTimeout"),
    Reference(song="one", stems={"vocals": ("aa", 1)}),
    Told(task_uuid="t", webhook_id="m", body='{"ü": "\\n"}', answered=200, signed=True),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "new" / "ledger.jsonl"


def test_what_is_written_can_be_read_while_the_ledger_is_open(file: Path) -> None:
    with Ledger(file) as ledger:
        ledger.add(*ENTRIES)
        assert read(file) == ledger.entries == ENTRIES


def test_a_ledger_whose_writer_died_in_mid_line(file: Path) -> None:
    with Ledger(file) as ledger:
        ledger.add(*ENTRIES)
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    assert read(file) == ENTRIES[:-1]


def test_it_goes_on_where_it_was(file: Path) -> None:
    for entry in ENTRIES:
        with Ledger(file) as ledger:
            ledger.add(entry)
    assert read(file) == ENTRIES


def test_half_a_run_can_be_reported_on(file: Path) -> None:
    with Ledger(file) as ledger:
        ledger.add(*ENTRIES[:3])
    assert "| no answer | 1 |" in page(read(file))
