"""The results as Markdown."""

from __future__ import annotations

from importlib.metadata import version
from statistics import median

from benchmarks.download.server.profile import MIB
from benchmarks.page import load_warning, machine, markdown_table, marks
from benchmarks.separate.names import COMMAND, ENGINE, UPSTREAM
from benchmarks.separate.rows import Samples, SeparationRow
from benchmarks.separate.threads import Arrangement, Rates

BEGIN, END = marks("bench-separate")
THREADS_BEGIN, THREADS_END = marks("bench-separate ARGS=--threads")

_COLUMNS = ("", "wall s", "from – to", "× audio-separator's speed", "× real time", "in the network", "peak MiB", "runs")
_NAMES = {ENGINE: "**this engine**", UPSTREAM: "audio-separator, in process, warm", COMMAND: "the command, per file"}


def separation_page(rows: list[tuple[SeparationRow, Samples]], *, quick: bool) -> str:
    """Return the report without the headline of the page."""
    return "\n\n".join([_setting(quick=quick), *(_row(row, samples) for row, samples in rows)])


def threads_markdown(rates: dict[Arrangement, Rates], *, quick: bool) -> str:
    """Return a table of songs per hour, and their share of the first arrangement's."""
    first = next(iter(rates.values()))
    lines = [
        (arrangement.title, *(_hourly(found[title], first[title]) for title in first))
        for arrangement, found in rates.items()
    ]
    head = ("songs per hour", *first)
    return f"{_setting(quick=quick)}\n\n{markdown_table(head, lines)}"


def _hourly(rates: list[float], first: list[float]) -> str:
    return f"{median(rates):.0f} ({median(rates) / median(first):.0%})"


def _setting(*, quick: bool) -> str:
    setting = [machine(), _versions(), *load_warning()]
    if quick:
        setting.append("**A quick run: short songs, one repeat. It only shows that the benchmark works.**")
    return " ".join(setting)


def _versions() -> str:
    names = ("audio-separator", "onnxruntime", "torch")
    return f"{', '.join(f'{name} {version(name)}' for name in names)}."


def _row(row: SeparationRow, samples: Samples) -> str:
    lines = [_line(name, row, samples) for name in samples if samples[name]]
    return (
        f"### {row.title[0].upper()}{row.title[1:]}, a song of {row.seconds:g} s\n\n{markdown_table(_COLUMNS, lines)}"
    )


def _line(name: str, row: SeparationRow, samples: Samples) -> tuple[str, ...]:
    runs = samples[name]
    walls = [run.wall for run in runs]
    shares = [run.in_network / run.wall for run in runs if run.in_network is not None]
    wall = median(walls)
    return (
        _NAMES[name],
        f"{wall:.2f}",
        f"{min(walls):.2f} – {max(walls):.2f}",
        f"{median(run.wall for run in samples[UPSTREAM]) / wall:.2f}",
        f"{row.seconds / wall:.1f}",
        f"{median(shares):.0%}" if shares else "",
        f"{max(run.peak for run in runs) / MIB:.0f}",
        str(len(runs)),
    )
