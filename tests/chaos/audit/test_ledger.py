"""Tests of the ledger: entries are on disk immediately and can be read after any kind of exit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.audit.ledger import Command, Ledger, Reference, RequestSent, ResponseReceived, WebhookReceived, read
from tests.chaos.audit.report import page

ENTRIES = (
    Command(line="x", seed=1, digest="d", minutes=0.5, settings={"A": "b"}),
    RequestSent(post="p", song="one", priority=1, client="c"),
    ResponseReceived(post="p", status=None, seconds=1.0, why="ConnectTimeout"),
    Reference(song="one", stems={"vocals": ("aa", 1)}),
    WebhookReceived(task_uuid="t", webhook_id="m", body='{"ü": "\\n"}', status=200, signed=True),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "new" / "ledger.jsonl"


def test_entries_can_be_read_while_the_ledger_is_open(file: Path) -> None:
    with Ledger(file) as ledger:
        ledger.add(*ENTRIES)
        assert read(file) == ledger.entries == ENTRIES


def test_truncated_last_line_is_ignored(file: Path) -> None:
    with Ledger(file) as ledger:
        ledger.add(*ENTRIES)
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    assert read(file) == ENTRIES[:-1]


def test_reopened_ledger_appends(file: Path) -> None:
    for entry in ENTRIES:
        with Ledger(file) as ledger:
            ledger.add(entry)
    assert read(file) == ENTRIES


def test_incomplete_run_can_be_reported(file: Path) -> None:
    with Ledger(file) as ledger:
        ledger.add(*ENTRIES[:3])
    assert "| no response | 1 |" in page(read(file))
