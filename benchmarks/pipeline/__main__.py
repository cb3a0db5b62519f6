"""python -m benchmarks.pipeline [--rows light heavy] [--quick] [--set NAME=VALUE] [--write PAGE]: see the package."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.page import deliver
from benchmarks.pipeline.report import BEGIN, END, pipeline_page
from benchmarks.pipeline.rows import ROWS, PipelineRow, run_rows


def _arguments() -> argparse.Namespace:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description="The report goes to stdout.")
    parser.add_argument("--rows", nargs="+", choices=names, default=names, help="what to measure; all if not given")
    parser.add_argument("--quick", action="store_true", help="few short songs, once: does it work?")
    parser.add_argument("--set", nargs="+", type=_setting, default=[], metavar="NAME=VALUE", help="of the services")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave logs and files in FOLDER, which is made")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the report between the marks in PAGE instead")
    return parser.parse_args()


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError("a setting is NAME=VALUE")
    return name, value


def _report(rows: list[PipelineRow], folder: Path, settings: dict[str, str], *, quick: bool) -> str:
    return pipeline_page(run_rows(rows, folder, settings), settings, quick=quick)


def main() -> int:
    """0; whatever goes wrong is raised."""
    arguments = _arguments()
    settings = dict(arguments.set)
    os.environ.pop("AUDIO_SEPARATOR_MODEL_DIR", None)
    rows = [row.quick() if arguments.quick else row for row in ROWS if row.name in arguments.rows]
    if arguments.keep:
        arguments.keep.mkdir(parents=True)
        text = _report(rows, arguments.keep, settings, quick=arguments.quick)
    else:
        with tempfile.TemporaryDirectory(prefix="bench-pipeline-") as folder:
            text = _report(rows, Path(folder), settings, quick=arguments.quick)
    deliver(text, arguments.write, BEGIN, END)
    return 0


if __name__ == "__main__":
    sys.exit(main())
