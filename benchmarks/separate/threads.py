"""`make bench-separate ARGS=--threads`: threads of one child, several children, and spinning threads."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.models import install_model
from benchmarks.separate.names import DEFAULT_THREADS, ENGINE, PARALLEL_OPERATORS
from benchmarks.separate.rows import put_song
from benchmarks.separate.workers import BenchmarkWorker, worker
from demo.centre_model import DEMO_MODEL_NAME
from demo.random_network import Shape
from processor.system.cpu import THREADS, WAITING, usable_cores

#: Number of passes over the arrangements, in alternating directions, so that their order has no effect.
PASSES: Final = 2

#: Transform, bands and heads of the public BS-Roformers, and a common width. One layer instead of many.
_ROFORMER: Final[Mapping[str, Any]] = {
    "stft_n_fft": 2048,
    "stft_win_length": 2048,
    "freqs_per_bands": (*(2,) * 24, *(4,) * 12, *(12,) * 8, *(24,) * 8, *(48,) * 8, 128, 129),
    "dim": 256,
    "heads": 8,
    "dim_head": 64,
}


@dataclass(frozen=True, slots=True)
class ThreadedModel:
    """A model and the song that it separates."""

    title: str
    path: Path
    song: Path


@dataclass(frozen=True, slots=True)
class Arrangement:
    """A division of the cores into processes and threads."""

    title: str
    processes: int
    threads: int
    contender: str = ENGINE
    neighbour: bool = False
    """Whether another process occupies one core."""

    def environment(self) -> dict[str, str]:
        """Return the environment of the processes."""
        inherited = {name: value for name, value in os.environ.items() if name not in (THREADS, WAITING)}
        return inherited if self.contender == DEFAULT_THREADS else inherited | {THREADS: str(self.threads)}


Rates = dict[str, list[float]]
"""Songs per hour of every pass, by the title of the model."""


def arrangements(cores: int) -> list[Arrangement]:
    """Return the arrangements for a number of cores. The first is the one that the processor uses."""
    one = f"one child, {cores} threads that sleep while they wait"
    loops = "the same, with the libraries' defaults: waiting in loops"
    return [
        Arrangement(one, 1, cores),
        Arrangement(loops, 1, cores, DEFAULT_THREADS),
        Arrangement("the same, several operators of an ONNX network at a time", 1, cores, PARALLEL_OPERATORS),
        Arrangement(f"{cores} children, one thread each", cores, 1),
        Arrangement(f"{cores} children, {cores} threads each", cores, cores),
        Arrangement(f"{one}; one core busy with something else", 1, cores, neighbour=True),
        Arrangement("waiting in loops; one core busy with something else", 1, cores, DEFAULT_THREADS, neighbour=True),
    ]


def models(folder: Path, *, quick: bool) -> list[ThreadedModel]:
    """Write a light and a heavy model for ONNX Runtime, and one for torch. ``quick``: only the first."""
    light = install_model(folder / "light", DEMO_MODEL_NAME, None)
    chosen = [ThreadedModel("the demo model", light, put_song(folder / "light.wav", 12.0 if quick else 90.0))]
    if not quick:
        heavy = install_model(folder / "heavy", "random-g32.onnx", Shape())
        chosen.append(ThreadedModel("MDX, g = 32", heavy, put_song(folder / "heavy.wav", 8.0)))
        chosen.append(
            ThreadedModel("a Roformer (torch)", _roformer(folder / "torch"), put_song(folder / "torch.wav", 11.0))
        )
    return chosen


def _roformer(folder: Path) -> Path:
    from demo.tiny_models import write_roformer  # imports torch

    return folder / write_roformer(folder, ["Vocals", "Instrumental"], "Vocals", overlap=1, times=401, **_ROFORMER)


def measured(folder: Path, *, quick: bool = False) -> dict[Arrangement, Rates]:
    """Measure all arrangements with all models."""
    chosen, all_arrangements = models(folder, quick=quick), arrangements(usable_cores())
    rates: dict[Arrangement, Rates] = {each: {model.title: [] for model in chosen} for each in all_arrangements}
    for number in range(1 if quick else PASSES):
        for each in all_arrangements[:: -1 if number % 2 else 1]:
            with _workers(each, chosen, folder / f"{number}-{all_arrangements.index(each)}") as workers:
                for model in chosen:
                    rates[each][model.title].append(_rate(workers, model))
    return rates


@contextmanager
def _workers(
    arrangement: Arrangement, chosen: Sequence[ThreadedModel], folder: Path
) -> Iterator[list[BenchmarkWorker]]:
    """Yield the arrangement's processes, after a warm-up."""
    folder.mkdir()
    paths, environment = [model.path for model in chosen], arrangement.environment()
    with ExitStack() as stack:
        names = [folder / str(number) for number in range(arrangement.processes)]
        workers = [stack.enter_context(worker(arrangement.contender, paths, name, environment)) for name in names]
        short = put_song(folder / "short.wav", 1.0)
        for model in chosen:
            _run_all(workers, model.path, short)
        if arrangement.neighbour:
            stack.enter_context(_busy_core())
        yield workers


@contextmanager
def _busy_core() -> Iterator[None]:
    with subprocess.Popen((sys.executable, "-c", "while True: pass")) as process:
        try:
            yield
        finally:
            process.kill()


def _rate(workers: Sequence[BenchmarkWorker], model: ThreadedModel) -> float:
    """Return the songs per hour while each worker separates one."""
    started = time.perf_counter()
    _run_all(workers, model.path, model.song)
    return 3600.0 * len(workers) / (time.perf_counter() - started)


def _run_all(workers: Sequence[BenchmarkWorker], model: Path, song: Path) -> None:
    for each in workers:
        each.begin(model, song)
    for each in workers:
        each.end()
