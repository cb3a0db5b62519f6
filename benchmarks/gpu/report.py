"""The results as Markdown."""

from __future__ import annotations

import math
from importlib.metadata import version
from statistics import median

from benchmarks.download.server.profile import MIB
from benchmarks.gpu.figures import Figures
from benchmarks.gpu.networks import BenchmarkNetwork
from benchmarks.gpu.variants import UPSTREAM, Variant
from benchmarks.page import machine, markdown_table, marks

BEGIN, END = marks("bench-gpu")

Results = dict[str, tuple[Variant, Figures | str]]
"""The figures of each variant, or its error, by the name of the variant."""

_COLUMNS = (
    "",
    "× real time",
    "wall s",
    "× audio-separator's speed",
    "busy",
    "J/min",
    "torch MiB",
    "device MiB",
    "SNR dB",
    "ready s",
)


def gpu_page(rows: list[tuple[BenchmarkNetwork, Results]], seconds: float, *, quick: bool) -> str:
    """Return the report without the headline of the page. ``seconds``: length of the song."""
    measured = [each for _, results in rows for _, each in results.values() if isinstance(each, Figures)]
    device = measured[0].device if measured else "nothing"
    setting = [f"On {device}; a song of {seconds:g} s.", machine(), _versions()]
    if quick:
        setting.append("**A quick run: small networks, a short song. It only shows that the benchmark works.**")
    return "\n\n".join([" ".join(setting), *(_row(network, results, seconds) for network, results in rows)])


def _versions() -> str:
    names = ("audio-separator", "onnxruntime", "torch")
    return f"{', '.join(f'{name} {version(name)}' for name in names)}."


def _row(network: BenchmarkNetwork, results: Results, seconds: float) -> str:
    lines = [_line(variant, figures, results, seconds) for variant, figures in results.values()]
    return f"### {network.title}\n\n{markdown_table(_COLUMNS, lines)}"


def _line(variant: Variant, figures: Figures | str, results: Results, seconds: float) -> tuple[str, ...]:
    if isinstance(figures, str):
        return (variant.title, figures, *[""] * (len(_COLUMNS) - 2))
    wall = median(figures.walls)
    upstream = results[UPSTREAM][1] if UPSTREAM in results else ""
    return (
        variant.title,
        f"{seconds / wall:.1f}",
        f"{wall:.2f}",
        f"{median(upstream.walls) / wall:.2f}" if isinstance(upstream, Figures) else "",
        _shown(figures.busy, "{:.0%}"),
        _shown(figures.joules and figures.joules * 60 / seconds, "{:.0f}"),
        _shown(figures.allocated and figures.allocated / MIB, "{:.0f}"),
        _shown(figures.device_peak and figures.device_peak / MIB, "{:.0f}"),
        "equal" if figures.snr == math.inf else _shown(figures.snr, "{:.1f}"),
        f"{figures.load - wall:.1f}",
    )


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
