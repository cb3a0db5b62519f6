"""The benchmark of the embedded broker runs and measures something."""

from __future__ import annotations

from pathlib import Path

from benchmarks.embedded.__main__ import purge_row, waiting_row

ROOT = Path(__file__).parents[2]


def test_a_member_and_a_purge_are_measured(tmp_path: Path) -> None:
    assert waiting_row(ROOT, tmp_path, 10, seconds=0.1)[0] == "10"
    row = purge_row(ROOT, tmp_path, 10, seconds=0.1)
    assert float(row[1]) > 0
