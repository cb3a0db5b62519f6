"""What was measured, as Markdown."""

from __future__ import annotations

from importlib.metadata import version
from statistics import median

from benchmarks.download.profile import MIB
from benchmarks.page import machine, marks, table
from benchmarks.separate.rows import COMMAND, OURS, STOCK, Row, Samples

BEGIN, END = marks("bench-separate")

_COLUMNS = ("", "wall s", "from – to", "× stock's speed", "× real time", "in the network", "peak MiB", "runs")
_NAMES = {OURS: "**this engine**", STOCK: "stock, in process, warm", COMMAND: "the command, per file"}


def markdown(rows: list[tuple[Row, Samples]], *, quick: bool) -> str:
    """The whole report, without the headline of the page."""
    setting = [machine(), _versions()]
    if quick:
        setting.append("**A quick run: short songs, one repeat. It shows that the benchmark works, and nothing else.**")
    return "\n\n".join([" ".join(setting), *(_row(row, samples) for row, samples in rows)])


def _versions() -> str:
    names = ("audio-separator", "onnxruntime", "torch")
    return f"{', '.join(f'{name} {version(name)}' for name in names)}."


def _row(row: Row, samples: Samples) -> str:
    lines = [_line(name, row, samples) for name in samples if samples[name]]
    return f"### {row.title[0].upper()}{row.title[1:]}, a song of {row.seconds:g} s\n\n{table(_COLUMNS, lines)}"


def _line(name: str, row: Row, samples: Samples) -> tuple[str, ...]:
    runs = samples[name]
    walls = [run.wall for run in runs]
    shares = [run.in_network / run.wall for run in runs if run.in_network is not None]
    wall = median(walls)
    return (
        _NAMES[name],
        f"{wall:.2f}",
        f"{min(walls):.2f} – {max(walls):.2f}",
        f"{median(run.wall for run in samples[STOCK]) / wall:.2f}",
        f"{row.seconds / wall:.1f}",
        f"{median(shares):.0%}" if shares else "",
        f"{max(run.peak for run in runs) / MIB:.0f}",
        str(len(runs)),
    )
