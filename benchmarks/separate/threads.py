"""`make bench-separate ARGS=--threads`: threads of one child, or several children, and how the threads wait."""

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
from benchmarks.separate.names import OURS, SIDE_BY_SIDE, UNSETTLED
from benchmarks.separate.rows import put_song
from benchmarks.separate.workers import BenchmarkWorker, worker
from demo.centre_model import DEMO_MODEL_NAME
from demo.random_network import Shape
from processor.system.cpu import THREADS, WAITING, usable_cores

#: Once there and once back, so that none is always the one before another.
PASSES: Final = 2

#: The transform, the bands and the heads of the public BS-Roformers, and a width that some have; one layer of many.
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
    """What is separated with, and how long a song."""

    title: str
    path: Path
    song: Path


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How the cores are used."""

    title: str
    processes: int
    threads: int
    contender: str = OURS
    neighbour: bool = False
    """Whether another process keeps one core busy."""

    def environment(self) -> dict[str, str]:
        """Of its processes."""
        own = {name: value for name, value in os.environ.items() if name not in (THREADS, WAITING)}
        return own if self.contender == UNSETTLED else own | {THREADS: str(self.threads)}


Rates = dict[str, list[float]]
"""Songs per hour, of every pass, by the model's title."""


def arrangements(cores: int) -> list[Arrangement]:
    """Those that are measured on so many cores; the first is the child's own."""
    one = f"one child, {cores} threads that sleep while they wait"
    loops = "the same, as the libraries have it: waiting in loops"
    return [
        Arrangement(one, 1, cores),
        Arrangement(loops, 1, cores, UNSETTLED),
        Arrangement("the same, several operators of an ONNX network at a time", 1, cores, SIDE_BY_SIDE),
        Arrangement(f"{cores} children, one thread each", cores, 1),
        Arrangement(f"{cores} children, {cores} threads each", cores, cores),
        Arrangement(f"{one}; one core busy with something else", 1, cores, neighbour=True),
        Arrangement("waiting in loops; one core busy with something else", 1, cores, UNSETTLED, neighbour=True),
    ]


def models(folder: Path, *, quick: bool) -> list[ThreadedModel]:
    """A light one and a heavy one for ONNX Runtime, and one for torch; quick: the first alone."""
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
    from demo.tiny_models import write_roformer  # and torch

    return folder / write_roformer(folder, ["Vocals", "Instrumental"], "Vocals", overlap=1, times=401, **_ROFORMER)


def measured(folder: Path, *, quick: bool = False) -> dict[Arrangement, Rates]:
    """All of them, by turns."""
    chosen, used = models(folder, quick=quick), arrangements(usable_cores())
    rates: dict[Arrangement, Rates] = {each: {model.title: [] for model in chosen} for each in used}
    for number in range(1 if quick else PASSES):
        for each in used[:: -1 if number % 2 else 1]:
            with _crew(each, chosen, folder / f"{number}-{used.index(each)}") as crew:
                for model in chosen:
                    rates[each][model.title].append(_rate(crew, model))
    return rates


@contextmanager
def _crew(arrangement: Arrangement, chosen: Sequence[ThreadedModel], folder: Path) -> Iterator[list[BenchmarkWorker]]:
    """The arrangement's processes, warm."""
    folder.mkdir()
    paths, environment = [model.path for model in chosen], arrangement.environment()
    with ExitStack() as stack:
        names = [folder / str(number) for number in range(arrangement.processes)]
        crew = [stack.enter_context(worker(arrangement.contender, paths, name, environment)) for name in names]
        short = put_song(folder / "short.wav", 1.0)
        for model in chosen:
            _all(crew, model.path, short)
        if arrangement.neighbour:
            stack.enter_context(_busy_core())
        yield crew


@contextmanager
def _busy_core() -> Iterator[None]:
    with subprocess.Popen((sys.executable, "-c", "while True: pass")) as process:
        try:
            yield
        finally:
            process.kill()


def _rate(crew: Sequence[BenchmarkWorker], model: ThreadedModel) -> float:
    """Songs per hour, if each has one."""
    started = time.perf_counter()
    _all(crew, model.path, model.song)
    return 3600.0 * len(crew) / (time.perf_counter() - started)


def _all(crew: Sequence[BenchmarkWorker], model: Path, song: Path) -> None:
    for each in crew:
        each.begin(model, song)
    for each in crew:
        each.end()
