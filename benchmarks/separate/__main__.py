"""python -m benchmarks.separate [--rows demo g32 | --threads] [--quick] [--write PAGE]: see the package."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.page import deliver
from benchmarks.separate.report import BEGIN, END, THREADS_BEGIN, THREADS_END, separation_page, threads_markdown
from benchmarks.separate.rows import ROWS, Samples, SeparationRow, run_separation_row
from benchmarks.separate.threads import measured
from processor.system.ffmpeg import put_ffmpeg_on_path


def _arguments() -> argparse.Namespace:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.separate", description="The report goes to stdout.")
    parser.add_argument("--rows", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument("--threads", action="store_true", help="compare threads and processes instead")
    parser.add_argument("--quick", action="store_true", help="short songs, one repeat: a smoke test")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="insert the report into PAGE instead")
    return parser.parse_args()


@contextmanager
def _workspace() -> Iterator[Path]:
    """Yield a temporary folder for all files, with ffmpeg on PATH."""
    os.environ.pop("AUDIO_SEPARATOR_MODEL_DIR", None)
    with tempfile.TemporaryDirectory(prefix="bench-separate-") as folder:
        put_ffmpeg_on_path(Path(folder))
        yield Path(folder)


def _rows(rows: list[SeparationRow]) -> list[tuple[SeparationRow, Samples]]:
    with _workspace() as folder:
        results = []
        for row in rows:
            row_folder = folder / row.name
            row_folder.mkdir()
            results.append((row, run_separation_row(row, row_folder)))
        return results


def main() -> int:
    """Run the benchmark and return 0. Raises every error."""
    arguments = _arguments()
    quick: bool = arguments.quick
    if arguments.threads:
        with _workspace() as folder:
            text = threads_markdown(measured(folder, quick=quick), quick=quick)
        deliver(text, arguments.write, THREADS_BEGIN, THREADS_END)
    else:
        chosen = [row.quick() if quick else row for row in ROWS if row.name in arguments.rows]
        deliver(separation_page(_rows(chosen), quick=quick), arguments.write, BEGIN, END)
    return 0


if __name__ == "__main__":
    sys.exit(main())
