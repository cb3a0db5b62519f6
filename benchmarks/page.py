"""What the benchmarks' reports have in common: tables, the machine, a place in a page."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = (head, ["---"] * len(head), *lines)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def machine() -> str:
    """What the benchmark runs on, and how busy that is, in a sentence."""
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    return (
        f"{cores} cores, Linux {platform.release()}, Python {platform.python_version()}; load average at the end "
        f"{load:.1f}, the benchmark's own included."
    )


def load_warning() -> list[str]:
    """A sentence, where other work has taken part of the cores; none where there was nothing of the kind."""
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[2]
    if load <= cores:
        return []
    return [
        f"**Measured under load**: {load:.1f} in the mean of the last 15 minutes on {cores} cores, so that every "
        "process had to wait for its turn."
    ]


def marks(target: str) -> tuple[str, str]:
    """What stands before and after the report of ``make target`` in a page."""
    return f"<!-- made by make {target}: begin -->", f"<!-- made by make {target}: end -->"


def deliver(text: str, page: Path | None, begin: str, end: str) -> None:
    """Put a report between the marks in ``page``, or on the terminal if there is no page. Raises ValueError if the page
    does not have them."""
    if page is not None:
        place(page, text, begin, end)
    else:
        sys.stdout.write(f"{text}\n")


def place(page: Path, text: str, begin: str, end: str) -> None:
    """Put ``text`` between the marks in ``page``. Raises ValueError if they are not there."""
    before, found, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{page} has no place for the report")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
