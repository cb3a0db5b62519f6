"""The report in Markdown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from benchmarks.download.clients import CURL, ENGINE, WGET, Client
from benchmarks.download.faults import FAULTS, LIMITS, PATIENCE, Ending, Verdict, summary
from benchmarks.download.measure import bare_interpreter
from benchmarks.download.rows import DownloadRow, DownloadSample, Samples
from benchmarks.download.server.profile import MIB
from benchmarks.page import machine, markdown_table, marks

BEGIN, END = marks("bench-download")

_BAD: Final = (Verdict.WRONG, Verdict.HUNG, Verdict.SWALLOWED)
_COLUMNS: Final = (
    *("client", "wall s", "from – to", "× best other", "CPU s", "× curl", "peak MiB", "above Python"),
    *("connections", "runs", "failures"),
)


@dataclass(slots=True)
class Results:
    """The results of one run of the benchmark."""

    clients: Sequence[Client]
    missing: Sequence[str]
    quick: bool
    ceiling: float = 0.0
    """Rate of the server alone, bytes/s."""
    rows: list[tuple[DownloadRow, Samples]] = field(default_factory=list)
    left_out: list[tuple[DownloadRow, str]] = field(default_factory=list)
    faults: list[list[Ending]] = field(default_factory=list)
    kills: list[list[Ending]] = field(default_factory=list)
    http3: str = ""
    """A section of the page."""

    def engine_failed(self) -> bool:
        """Return whether this engine produced wrong bytes, hung, or failed on a correct server."""
        if ENGINE not in (client.name for client in self.clients):
            return False
        column = [client.name for client in self.clients].index(ENGINE)
        endings = [line[column] for line in self.faults] + (self.kills[column] if self.kills else [])
        slow = any(not sample.right for _, samples in self.rows for sample in samples[ENGINE])
        return slow or any(ending.verdict in _BAD for ending in endings)


def download_page(results: Results) -> str:
    """Return the whole report, without the title of the page."""
    parts = [_setting(results), _versions(results)]
    parts += [_row(row, samples) for row, samples in results.rows]
    if results.rows:
        parts += [_goals(results), _start_up(results)]
    if results.http3:
        parts += [results.http3]
    if results.faults:
        parts += [_fault_table(results)]
    parts += [f"Not measured here: {row.title} ({reason})." for row, reason in results.left_out]
    return "\n\n".join(parts)


def _setting(results: Results) -> str:
    lines = [machine()]
    if results.ceiling:
        lines.append(f"The server alone, to a client that discards everything: {results.ceiling / 1e9:.1f} GB/s.")
    if results.quick:
        lines.append("**A quick run: small files, one repeat. It shows only that the benchmark works.**")
    return " ".join(lines)


def _versions(results: Results) -> str:
    versions = markdown_table(("client", "version"), [(client.name, client.version) for client in results.clients])
    return f"{versions}\n\nNot installed: {', '.join(results.missing)}." if results.missing else versions


def _row(row: DownloadRow, samples: Samples) -> str:
    return f"### {row.title}\n\n{markdown_table(_COLUMNS, [_line(name, samples) for name in samples])}"


def _line(name: str, samples: Samples) -> tuple[str, ...]:
    runs = samples[name]
    walls = [run.measured.wall for run in runs]
    wall, cpu, peak = (_median(runs, value) for value in (_wall, _cpu, _peak))
    failures = [run for run in runs if not run.right]
    best = _best_other(name, samples)
    curl = _median(samples[CURL], _cpu) if samples.get(CURL) else 0.0
    is_python = any(run.measured.start_wall for run in runs)
    return (
        f"**{name}**" if name == ENGINE else name,
        f"{wall:.2f}",
        f"{min(walls):.2f} – {max(walls):.2f}",
        f"{wall / best:.2f}" if best else "",
        f"{cpu:.2f}",
        f"{cpu / curl:.2f}" if curl else "",
        f"{peak / MIB:.0f}",
        f"{(peak - bare_interpreter(sys.executable)) / MIB:.0f}" if is_python else "",
        str(max(run.connections for run in runs)),
        str(len(runs)),
        f"{len(failures)}: {_reason(failures[0])}" if failures else "0",
    )


def _wall(sample: DownloadSample) -> float:
    return sample.measured.wall


def _cpu(sample: DownloadSample) -> float:
    return sample.measured.cpu


def _peak(sample: DownloadSample) -> float:
    return sample.measured.peak


def _median(samples: Sequence[DownloadSample], value: Callable[[DownloadSample], float]) -> float:
    return median(value(sample) for sample in samples)


def _best_other(name: str, samples: Samples) -> float:
    """Return the median time (s) of the fastest other client that never failed; 0 if there is none."""
    others = [runs for other, runs in samples.items() if other != name and all(run.right for run in runs)]
    return min((_median(runs, _wall) for runs in others if runs), default=0.0)


def _reason(sample: DownloadSample) -> str:
    measured = sample.measured
    if measured.killed:
        return "hung"
    return measured.error or (f"exit {measured.exit_code}" if measured.exit_code else "wrong bytes")


def _goals(results: Results) -> str:
    """Return the engine's figures beside its goals."""
    lines = [_goal(row, samples) for row, samples in results.rows if samples.get(ENGINE)]
    head = ("row", "time ÷ the best other's", "wget's time ÷ ours", "CPU ÷ curl's", "MiB above Python")
    goals = (
        "Goals: at most 1.10 times the time of the best other client in every row; more than 3 times as fast as wget "
        "where each connection is throttled; at most 1.5 times the CPU time of curl per GB, which the first row shows; "
        "at most 60 MiB."
    )
    return f"### The engine at a glance\n\n{goals}\n\n{markdown_table(head, lines)}"


def _goal(row: DownloadRow, samples: Samples) -> tuple[str, ...]:
    engine = samples[ENGINE]
    above = max(run.measured.peak for run in engine) - bare_interpreter(sys.executable)
    best = _best_other(ENGINE, samples)
    wall = f"{_median(engine, _wall) / best:.2f}" if best else ""
    ahead = f"{_median(samples[WGET], _wall) / _median(engine, _wall):.2f}" if samples.get(WGET) else ""
    cpu = f"{_median(engine, _cpu) / _median(samples[CURL], _cpu):.2f}" if samples.get(CURL) else ""
    return row.title, wall, ahead, cpu, f"{above / MIB:.0f}"


def _start_up(results: Results) -> str:
    lines = []
    for client in results.clients:
        if client.python:
            runs = [run.measured for _, samples in results.rows for run in samples[client.name]]
            wall, cpu = median(run.start_wall for run in runs), median(run.start_cpu for run in runs)
            lines.append((client.name, f"{wall:.2f}", f"{cpu:.2f}"))
    bare = bare_interpreter(sys.executable) / MIB
    text = f"Start of the interpreter and imports, excluded above (a bare interpreter has {bare:.0f} MiB):"
    return f"{text}\n\n{markdown_table(('client', 'wall s', 'CPU s'), lines)}"


def _fault_table(results: Results) -> str:
    lines = [(fault.title, *map(str, line)) for fault, line in zip(FAULTS, results.faults, strict=True)]
    if results.kills:
        count = len(results.kills[0])
        lines.append((f"killed (-9) at {count} random points, restarted", *map(summary, results.kills)))
    text = (
        f"Clients that have options for it are configured to give up after {LIMITS.stall:g} s of silence, "
        f"{LIMITS.total:g} s in all, or {LIMITS.max_bytes // MIB} MiB. "
        f"Clients still running after {PATIENCE:g} s are killed."
    )
    head = ("fault", *(client.name for client in results.clients))
    return f"### Faults\n\n{text}\n\n{markdown_table(head, lines)}"
