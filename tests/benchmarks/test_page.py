"""Insertion of reports into pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.page import deliver, marks

BEGIN, END = marks("bench-nothing")


def test_page_keeps_the_text_around_the_report(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    deliver("new", page, BEGIN, END)
    assert page.read_text() == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"


def test_page_without_markers_is_unchanged(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nafter\n")
    with pytest.raises(ValueError, match="no place for the report"):
        deliver("new", page, BEGIN, END)
    assert page.read_text() == f"before\n{BEGIN}\nafter\n"


def test_report_is_printed_without_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    deliver("new", None, BEGIN, END)
    assert capsys.readouterr().out == "new\n"
