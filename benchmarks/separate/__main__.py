"""python -m benchmarks.separate [--rows demo g32] [--quick] [--write PAGE]: see the package."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.page import deliver
from benchmarks.separate.report import BEGIN, END, markdown
from benchmarks.separate.rows import ROWS, Row, Samples, run_row
from processor.ffmpeg import put_ffmpeg_on_path


def _arguments() -> argparse.Namespace:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.separate", description="The report goes to stdout.")
    parser.add_argument("--rows", nargs="+", choices=names, default=names, help="what to measure; all if not given")
    parser.add_argument("--quick", action="store_true", help="short songs, once: does it work?")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the report between the marks in PAGE instead")
    return parser.parse_args()


def _measured(rows: list[Row]) -> list[tuple[Row, Samples]]:
    os.environ.pop("AUDIO_SEPARATOR_MODEL_DIR", None)
    with tempfile.TemporaryDirectory(prefix="bench-separate-") as folder:
        put_ffmpeg_on_path(Path(folder))
        results = []
        for row in rows:
            own = Path(folder) / row.name
            own.mkdir()
            results.append((row, run_row(row, own)))
        return results


def main() -> int:
    """0; whatever goes wrong is raised."""
    arguments = _arguments()
    chosen = [row.quick() if arguments.quick else row for row in ROWS if row.name in arguments.rows]
    text = markdown(_measured(chosen), quick=arguments.quick)
    deliver(text, arguments.write, BEGIN, END)
    return 0


if __name__ == "__main__":
    sys.exit(main())
