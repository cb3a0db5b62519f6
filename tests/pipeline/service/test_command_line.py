"""Output of the command lines, piped and on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.service.command_line import print_json, print_table, printable

ROOT = Path(__file__).parents[3]
PRINT = """
from pipeline.service.command_line import print_table
print_table([["a" * 100, "one"], ["\\x1b[31mred", "[bold]two[/bold]"]], headings=["FIRST", "SECOND"])
"""


def on_a_terminal(program: str, **variables: str) -> str:
    """Run a Python program on a terminal 60 columns wide and return its output."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "60", **variables},
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    output = b""
    try:
        while piece := os.read(controller, 4096):
            output += piece
    except OSError:  # Linux reports the end of a terminal as an input/output error.
        pass
    os.close(controller)
    assert process.wait(30) == 0
    return output.decode()


def test_piped_tables_are_plain_aligned_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([["a" * 200, "one"], ["\x1b[31mred", "[bold]two[/bold]"]], headings=["FIRST", "SECOND"])

    assert capsys.readouterr().out.splitlines() == [
        f"{'FIRST':200}  SECOND",
        f"{'a' * 200}  one",
        f"{chr(92) + 'x1b[31mred':200}  [bold]two[/bold]",
    ]


def test_an_empty_table_without_headings_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([])

    assert capsys.readouterr().out == ""


def test_on_a_terminal_long_cells_are_folded_and_control_characters_are_escaped() -> None:
    shown = on_a_terminal(PRINT)

    assert shown.count("a") == 100
    assert all(len(line) < 120 for line in shown.splitlines())
    assert r"\x1b[31mred" in shown
    assert "[bold]two[/bold]" in shown
    assert "FIRST" in shown


def test_no_colour_where_it_is_not_wanted() -> None:
    assert "\x1b[3" not in on_a_terminal(PRINT, NO_COLOR="1")


def test_rows_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json([{"file": "a"}])

    assert capsys.readouterr().out == '[\n {\n  "file": "a"\n }\n]\n'


@pytest.mark.parametrize(("text", "shown"), [("ä b", "ä b"), ("a\nb\x1b\u202e", r"a\nb\x1b\u202e")])
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
