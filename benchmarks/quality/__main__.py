"""python -m benchmarks.quality [--models NAME …] [--songs FOLDER] [--quick] [--write PAGE]: see the package."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.models import install_model
from benchmarks.page import deliver
from benchmarks.quality.folders import read_songs, songs_in
from benchmarks.quality.report import BEGIN, END, quality_page
from benchmarks.quality.results import Result
from benchmarks.quality.rounds import run_model
from benchmarks.quality.songs import SECONDS, SEEDS, STYLES, Piece, pieces
from config import load
from demo.centre_model import DEMO_MODEL_NAME
from processor.system import cpu

_QUICK_SECONDS = 8.0


def _arguments() -> argparse.Namespace:
    names = [style.name for style in STYLES]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description="The report goes to stdout.")
    parser.add_argument(
        "--models", nargs="+", default=[DEMO_MODEL_NAME], metavar="NAME", help="file names, as MODEL_NAME"
    )
    parser.add_argument("--styles", nargs="+", choices=names, default=names, help="styles of songs; default: all")
    parser.add_argument(
        "--songs", type=Path, metavar="FOLDER", help="instead: one folder per song, with mixture.wav and stems"
    )
    parser.add_argument("--quick", action="store_true", help="a short song of each style: a smoke test")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="insert the report into PAGE instead")
    return parser.parse_args()


def _songs(arguments: argparse.Namespace) -> Iterator[Piece]:
    if arguments.songs:
        return read_songs(songs_in(arguments.songs))
    styles = [style for style in STYLES if style.name in arguments.styles]
    return pieces(styles, SEEDS[:1], _QUICK_SECONDS) if arguments.quick else pieces(styles, SEEDS, SECONDS)


def _model_dir(model: str, folder: Path) -> Path:
    if model == DEMO_MODEL_NAME:
        return install_model(folder / "models", model, None).parent
    return load().model.model_dir.absolute()


def _measured(model: str, songs: Iterable[Piece]) -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="bench-quality-") as folder:
        return list(run_model(_model_dir(model, Path(folder)), model, songs, Path(folder)))


def main() -> int:
    """Run the benchmark and return 0. Raises every error."""
    arguments = _arguments()
    # As in processor.workers.child: no progress bars, and the same threads.
    os.environ.setdefault("TQDM_DISABLE", "1")
    cpu.configure_threads(os.environ)
    results = [(model, _measured(model, _songs(arguments))) for model in arguments.models]
    deliver(quality_page(results, quick=arguments.quick), arguments.write, BEGIN, END)
    return 0


if __name__ == "__main__":
    sys.exit(main())
