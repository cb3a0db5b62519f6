"""Run the benchmark: python -m benchmarks.front_door [--rows silent …] [--seconds N] [--tree FOLDER] [--write PAGE]."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.front_door.attacks import ATTACKS
from benchmarks.front_door.rows import PATIENCE, Measurement, chosen, latency_summary, run_row
from benchmarks.page import deliver, load_warning, machine, markdown_table, marks

BEGIN, END = marks("bench-front")
_ROOT = Path(__file__).parents[2]


def _arguments() -> argparse.Namespace:
    names = [attack.name for attack in ATTACKS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.front_door", description="Print the report to stdout.")
    parser.add_argument("--rows", nargs="+", choices=names, default=names, help="rows to measure; default: all")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each measurement")
    parser.add_argument("--tree", type=Path, default=_ROOT, help="checkout whose API is measured; default: this one")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the report between the marks in PAGE instead")
    return parser.parse_args()


def front_door_page(results: Sequence[Measurement]) -> str:
    """Return the report in Markdown."""
    head = (
        "meanwhile",
        "`/health` answered",
        "median ms",
        "longest ms",
        "jobs accepted",
        "median ms",
        "longest ms",
        "log kB",
    )
    rows = [
        [row.attack.label, *latency_summary(row.health), *latency_summary(row.jobs), f"{row.log_bytes / 1000:.1f}"]
        for row in results
    ]
    seconds = results[0].seconds if results else 0
    explanation = f"Each row took {seconds:g} s. A request without an answer within {PATIENCE:g} s counts as none."
    return "\n\n".join([machine(), *load_warning(), explanation, markdown_table(head, rows)])


def main() -> int:
    """Run the benchmark and return 0. Errors propagate."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="bench-front-") as folder:
        results = []
        for attack in chosen(arguments.rows):
            results.append(run_row(attack, Path(folder) / attack.name, arguments.tree.resolve(), arguments.seconds))
            sys.stderr.write(f"{attack.label}: {results[-1].log_bytes} bytes of log\n")
    deliver(front_door_page(results), arguments.write, BEGIN, END)
    return 0


if __name__ == "__main__":
    sys.exit(main())
