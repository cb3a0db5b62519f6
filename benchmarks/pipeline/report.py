"""Write the results as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from statistics import median

from benchmarks.page import load_warning, machine, markdown_table, marks
from benchmarks.pipeline.rows import Pass, Passes, PipelineRow

BEGIN, END = marks("bench-pipeline")

_COLUMNS = (
    "",
    "wall s",
    "from – to",
    "jobs per hour",
    "separating s",
    "engine busy, once warm",
    "overhead per job s",
    "a job's median s",
    "slowest s",
    "runs",
)


def pipeline_page(rows: list[tuple[PipelineRow, Passes]], settings: Mapping[str, str], *, quick: bool) -> str:
    """Return the report, without the headline of the page. ``settings``: the services' settings that were changed."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("audio-separator", "onnxruntime", "torch"))
    conditions = [machine(), f"{versions}.", *load_warning()]
    if settings:
        conditions.append(f"Settings that are not the defaults: {', '.join(map('='.join, settings.items()))}.")
    if quick:
        conditions.append("**A quick run: few short songs, once. It only shows that the benchmark works.**")
    return "\n\n".join([" ".join(conditions), *(_row(row, passes) for row, passes in rows)])


def _row(row: PipelineRow, passes: Passes) -> str:
    songs = f"{len(row.lengths)} songs of {min(row.lengths):g} to {max(row.lengths):g} s, {sum(row.lengths):g} s in all"
    contestants = {"**the services**": passes.services, "one job after the other": passes.sequential}
    lines = [_line(name, runs) for name, runs in contestants.items()]
    return f"### {row.title[0].upper()}{row.title[1:]}, {songs}\n\n{markdown_table(_COLUMNS, lines)}"


def _line(name: str, runs: list[Pass]) -> tuple[str, ...]:
    walls = [run.wall for run in runs]
    jobs = [seconds for run in runs for seconds in run.jobs]
    return (
        name,
        f"{median(walls):.1f}",
        f"{min(walls):.1f} – {max(walls):.1f}",
        f"{median(3600 * len(run.jobs) / run.wall for run in runs):.0f}",
        f"{median(run.busy for run in runs):.1f}",
        f"{median(run.share for run in runs):.1%}",
        f"{median((run.wall - run.busy) / len(run.jobs) for run in runs):.2f}",
        f"{median(jobs):.1f}",
        f"{max(jobs):.1f}",
        str(len(runs)),
    )
