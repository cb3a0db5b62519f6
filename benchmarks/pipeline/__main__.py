"""Run the benchmark: python -m benchmarks.pipeline [--rows light heavy] [--quick] [--set NAME=VALUE] [--write PAGE]."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.page import deliver
from benchmarks.pipeline.report import BEGIN, END, pipeline_page
from benchmarks.pipeline.rows import ROWS, run_rows


def _arguments() -> argparse.Namespace:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description="Print the report to stdout.")
    parser.add_argument("--rows", nargs="+", choices=names, default=names, help="rows to measure; default: all")
    parser.add_argument("--quick", action="store_true", help="few short songs, once, to check that it works")
    parser.add_argument(
        "--set", nargs="+", type=_setting, default=[], metavar="NAME=VALUE", help="settings of the services"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep logs and files in FOLDER, which is created")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the report between the marks in PAGE instead")
    return parser.parse_args()


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError("a setting has the form NAME=VALUE")
    return name, value


def main() -> int:
    """Run the benchmark and return 0. Errors propagate."""
    arguments = _arguments()
    settings = dict(arguments.set)
    os.environ.pop("AUDIO_SEPARATOR_MODEL_DIR", None)
    rows = [row.quick() if arguments.quick else row for row in ROWS if row.name in arguments.rows]
    if arguments.keep:
        arguments.keep.mkdir(parents=True)
        results = run_rows(rows, arguments.keep, settings)
    else:
        with tempfile.TemporaryDirectory(prefix="bench-pipeline-") as folder:
            results = run_rows(rows, Path(folder), settings)
    deliver(pipeline_page(results, settings, quick=arguments.quick), arguments.write, BEGIN, END)
    return 0


if __name__ == "__main__":
    sys.exit(main())
