"""Helpers for the reports of all benchmarks: tables, the machine, insertion into a page."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    rows = (head, ["---"] * len(head), *lines)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def machine() -> str:
    """Return a sentence about the machine and its load."""
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    return (
        f"{cores} cores, Linux {platform.release()}, Python {platform.python_version()}; load average at the end "
        f"{load:.1f}, the benchmark's own included."
    )


def load_warning() -> list[str]:
    """Return a warning if the machine was overloaded, as a list of one sentence; an empty list otherwise."""
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[2]
    if load <= cores:
        return []
    return [
        f"**Measured under load**: {load:.1f} in the mean of the last 15 minutes on {cores} cores, so that every "
        "process had to wait for a core."
    ]


def marks(target: str) -> tuple[str, str]:
    """Return the markers before and after the report of ``make target`` in a page."""
    return f"<!-- made by make {target}: begin -->", f"<!-- made by make {target}: end -->"


def deliver(text: str, page: Path | None, begin: str, end: str) -> None:
    """Insert a report between the markers in ``page``, or print it if there is no page.

    Raises ValueError if the page does not have the markers.
    """
    if page is not None:
        place(page, text, begin, end)
    else:
        sys.stdout.write(f"{text}\n")


def place(page: Path, text: str, begin: str, end: str) -> None:
    """Insert ``text`` between the markers in ``page``. Raises ValueError if they are missing."""
    before, found, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{page} has no place for the report")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
