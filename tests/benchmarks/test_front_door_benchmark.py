"""The benchmark of the API under attack runs, and its page has every row."""

from __future__ import annotations

from pathlib import Path

from benchmarks.front_door.__main__ import front_door_page
from benchmarks.front_door.rows import chosen, run_row

ROOT = Path(__file__).parents[2]


def test_a_row_is_measured_and_reported(tmp_path: Path) -> None:
    (silent,) = chosen(["silent"])
    measurement = run_row(silent, tmp_path / "row", ROOT, seconds=0.1, head_start=0.0)

    assert None not in (*measurement.health, *measurement.jobs)
    assert 0 < measurement.log_bytes < 10_000
    page = front_door_page([measurement])
    assert "| 300 silent connections, `ulimit -n 256` | 1 of 1 |" in page
