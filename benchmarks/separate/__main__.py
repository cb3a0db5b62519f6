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
    parser.add_argument("--rows", nargs="+", choices=names, default=names, help="what to measure; all if not given")
    parser.add_argument("--threads", action="store_true", help="how many, and in how many processes, instead")
    parser.add_argument("--quick", action="store_true", help="short songs, once: does it work?")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the report between the marks in PAGE instead")
    return parser.parse_args()


@contextmanager
def _workshop() -> Iterator[Path]:
    """A folder for all that is made."""
    os.environ.pop("AUDIO_SEPARATOR_MODEL_DIR", None)
    with tempfile.TemporaryDirectory(prefix="bench-separate-") as folder:
        put_ffmpeg_on_path(Path(folder))
        yield Path(folder)


def _rows(rows: list[SeparationRow]) -> list[tuple[SeparationRow, Samples]]:
    with _workshop() as folder:
        results = []
        for row in rows:
            own = folder / row.name
            own.mkdir()
            results.append((row, run_separation_row(row, own)))
        return results


def main() -> int:
    """0; whatever goes wrong is raised."""
    arguments = _arguments()
    quick: bool = arguments.quick
    if arguments.threads:
        with _workshop() as folder:
            text = threads_markdown(measured(folder, quick=quick), quick=quick)
        deliver(text, arguments.write, THREADS_BEGIN, THREADS_END)
    else:
        chosen = [row.quick() if quick else row for row in ROWS if row.name in arguments.rows]
        deliver(separation_page(_rows(chosen), quick=quick), arguments.write, BEGIN, END)
    return 0


if __name__ == "__main__":
    sys.exit(main())
