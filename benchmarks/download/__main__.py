"""python -m benchmarks.download [--rows plain faults …] [--quick] [--write PAGE]: see the package."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.download import faults
from benchmarks.download.clients import CLIENTS
from benchmarks.download.http3 import http3_section
from benchmarks.download.laboratory import Laboratory, laboratory
from benchmarks.download.report import BEGIN, END, Results, download_page
from benchmarks.download.rows import LARGEST, ROWS, DownloadRow, log_progress, run_download_row, server_ceiling
from benchmarks.download.sandbox import enter
from benchmarks.page import deliver

FAULTS = "faults"
HTTP3 = "http3"


def _arguments() -> argparse.Namespace:
    names = [*(row.name for row in ROWS), HTTP3, FAULTS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.download", description="The report goes to stdout.")
    parser.add_argument("--rows", nargs="+", choices=names, default=names, help="rows to measure (default: all)")
    parser.add_argument(
        "--clients", nargs="+", default=[], metavar="WORD", help="only clients whose name contains a WORD"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small files, one repeat, to check that the benchmark works"
    )
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the report between the marks in PAGE")
    return parser.parse_args()


def _results(arguments: argparse.Namespace) -> Results:
    selected = [client for client in CLIENTS if _is_selected(client.name, arguments.clients)]
    return Results(
        clients=[client for client in selected if client.version],
        missing=[client.name for client in selected if not client.version],
        quick=arguments.quick,
    )


def _is_selected(name: str, words: list[str]) -> bool:
    return not words or any(word in name for word in words)


def _measure(results: Results, rows: list[str]) -> None:
    chosen = [row.quick() if results.quick else row for row in ROWS if row.name in rows]
    largest = max((row.profile.size for row in chosen), default=0)
    with laboratory((max(largest, faults.SIZE), faults.SIZE)) as lab:
        for row in chosen:
            _measure_row(lab, results, row)
        if HTTP3 in rows:
            results.http3 = http3_section(results.quick)
        if FAULTS in rows:
            _measure_faults(lab, results)


def _measure_row(lab: Laboratory, results: Results, row: DownloadRow) -> None:
    if reason := row.obstacle():
        results.left_out.append((row, reason))
        log_progress(f"{row.name} is skipped: {reason}")
        return
    if not results.ceiling:
        results.ceiling = server_ceiling(lab, min(row.profile.size, LARGEST))
    results.rows.append((row, run_download_row(lab, row, results.clients)))


def _measure_faults(lab: Laboratory, results: Results) -> None:
    size = faults.QUICK_SIZE if results.quick else faults.SIZE
    kills = faults.QUICK_KILLS if results.quick else faults.KILLS
    results.faults = faults.run_faults(lab, results.clients, size)
    results.kills = faults.run_kills(lab, results.clients, size, kills)


def main() -> int:
    """Return 0, or 1 if this engine failed on a correct server, hung, or produced wrong bytes."""
    arguments = _arguments()
    enter()
    results = _results(arguments)
    _measure(results, arguments.rows)
    deliver(download_page(results), arguments.write, BEGIN, END)
    return 1 if results.engine_failed() else 0


if __name__ == "__main__":
    sys.exit(main())
