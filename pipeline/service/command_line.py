"""Parts that the project's command lines share: output, tables, and the exit statuses of failures.

Piped output is plain text. On a terminal, tables are drawn with rich, which respects ``NO_COLOR``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from config import ConfigError, Settings
from pipeline.errors import PipelineError
from pipeline.service.run import load_settings, operator_message
from pipeline.service.shutdown import ExitCode

#: Exit status of a command whose reader closed the pipe, as ``head`` does.
OUTPUT_CLOSED = 1


def run_command(
    name: str, command: Callable[[Settings], int], *, failure_status: Callable[[PipelineError], int]
) -> int:
    """Run ``command`` with the settings of the services and return the exit status of the process.

    ``name`` appears in the log. A ConfigError ends with status 78, Ctrl-C with 130, a PipelineError with
    ``failure_status(error)``; each prints one sentence on standard error. Other exceptions pass through.
    """
    try:
        status = command(load_settings(name))
        sys.stdout.flush()
        return status
    except ConfigError as error:
        print_error(str(error))
        return ExitCode.CONFIG
    except PipelineError as error:
        print_error(operator_message(error))
        return failure_status(error)
    except KeyboardInterrupt:
        return ExitCode.KILLED
    except BrokenPipeError:
        # Python flushes standard output again at exit: let that flush go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OUTPUT_CLOSED


def printable(text: str) -> str:
    """Return ``text`` on one line with every non-printing character escaped, so that it cannot control a terminal."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)


def print_lines(lines: Iterable[str]) -> None:
    """Write ``lines`` to standard output."""
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


def print_json(rows: Iterable[dict[str, Any]]) -> None:
    """Write ``rows`` to standard output as one JSON array."""
    print_lines([json.dumps(list(rows), indent=1)])


def print_error(sentence: str) -> None:
    """Write ``sentence`` to standard error, with control characters escaped."""
    sys.stderr.write(f"{printable(sentence)}\n")


def print_table(rows: Iterable[Sequence[str]], *, headings: Sequence[str] = ()) -> None:
    """Write ``rows`` to standard output in aligned columns, with control characters escaped.

    On a terminal, long cells are folded to the width of the window; piped lines are never cut.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        everything = [list(headings), *cells] if headings else cells
        widths = [max(map(len, column)) for column in zip(*everything, strict=True)]
        print_lines("  ".join(map(str.ljust, row, widths)).rstrip() for row in everything)
        return
    table = Table(*headings, box=None, show_header=bool(headings), pad_edge=False, padding=(0, 2, 0, 0))
    for row in cells:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    Console().print(table)
