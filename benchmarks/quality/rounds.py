"""The separation of every song with every contender, and the scores of the stems."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.quality.contenders import CONTENDERS
from benchmarks.quality.folders import read_stereo
from benchmarks.quality.results import MIXTURE, Result
from benchmarks.quality.scores import score
from benchmarks.quality.songs import INSTRUMENTAL, VOCALS, Piece, with_instrumental
from demo.sound import SAMPLE_RATE
from processor.audio.wav import Samples

_Stems = Future[dict[str, Path]]


def run_model(model_dir: Path, model: str, songs: Iterable[Piece], folder: Path) -> Iterator[Result]:
    """Separate and score all songs, one at a time. ``folder``: empty, for this model only.

    Raises RuntimeError if a contender writes no stems.
    """
    song = folder / "song.wav"
    with ExitStack() as stack:
        separators = {
            name: stack.enter_context(_process(partial(contender, model_dir, model, song), folder / name))
            for name, contender in CONTENDERS.items()
        }
        for piece in songs:
            soundfile.write(song, piece.mixture, SAMPLE_RATE, subtype="PCM_16")
            truth = with_instrumental(piece.stems)
            running = {name: separate() for name, separate in separators.items()}
            yield from _scored(MIXTURE, dict.fromkeys(truth, read_stereo(song)), truth, piece)
            for name, stems in running.items():
                estimates = {stem: read_stereo(path) for stem, path in stems.result().items()}
                yield from _scored(name, with_instrumental(estimates), truth, piece)


@contextmanager
def _process(work: Callable[[Path], dict[str, Path]], folder: Path) -> Iterator[Callable[[], _Stems]]:
    """Yield a function that runs ``work`` in a separate process, with the new ``folder``."""
    folder.mkdir()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _to_stderr) as pool:
        yield lambda: pool.submit(work, folder)


def _to_stderr() -> None:
    """Redirect this process's standard output to standard error: the report may go to the standard output."""
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


def _scored(
    contender: str, estimates: Mapping[str, Samples], truth: Mapping[str, Samples], piece: Piece
) -> Iterator[Result]:
    for stem in truth:
        if stem in estimates:
            # The instrumental is the sum of the other stems, which are then not stems of their own.
            stems = piece.stems if stem in piece.stems else {name: truth[name] for name in (VOCALS, INSTRUMENTAL)}
            estimate = _fit_length(estimates[stem], len(piece.mixture))
            yield Result(piece.title, stem, contender, score(stem, estimate, stems, piece.mixture))


def _fit_length(stem: Samples, frames: int) -> Samples:
    """Cut or zero-pad a stem to ``frames``."""
    return np.pad(stem[:frames], ((0, max(0, frames - len(stem))), (0, 0)))
