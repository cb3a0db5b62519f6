"""The songs and models, and the runs of all contenders over them, in turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final

import soundfile

from benchmarks.download.measure import measure
from benchmarks.download.sandbox import ROOT
from benchmarks.models import install_model
from demo.centre_model import DEMO_MODEL_NAME
from demo.random_network import Shape
from demo.song import render_song

OURS: Final = "ours"
STOCK: Final = "stock"
COMMAND: Final = "command"

#: What a run may take before it counts as hung, s.
PATIENCE: Final = 1800.0


@dataclass(frozen=True, slots=True)
class Row:
    """One model and one song."""

    name: str
    title: str
    model: str
    shape: Shape | None
    """None: it is the demo model."""
    seconds: float
    """Of the song."""
    repeats: int
    commands: int
    """How often the command is run, which loads its model each time."""

    def quick(self) -> Row:
        """Short, once."""
        return replace(self, seconds=min(self.seconds, 12.0), repeats=1, commands=1)


ROWS: Final = (
    Row("demo", "the demo model", DEMO_MODEL_NAME, None, seconds=60.0, repeats=5, commands=2),
    Row("g32", "a random network, g = 32", "random-g32.onnx", Shape(), seconds=12.0, repeats=3, commands=1),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One run."""

    wall: float
    """s."""
    peak: int
    """Largest resident set of the process so far, bytes."""
    in_network: float | None = None
    """s; None if that cannot be told."""


Samples = dict[str, list[Sample]]


def run_row(row: Row, folder: Path) -> Samples:
    """All runs of a row, in a folder that is the row's own."""
    models, songs = folder / "models", folder / "songs"
    songs.mkdir()
    install_model(models, row.model, row.shape)
    song, short = (_song(songs / name, seconds) for name, seconds in (("song.wav", row.seconds), ("short.wav", 1.0)))
    samples: Samples = {OURS: [], STOCK: [], COMMAND: []}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(_worker(name, models, row.model, folder)) for name in (OURS, STOCK)}
        for worker in workers.values():
            worker.separate(short)  # whatever is loaded and allocated at first use
        for number in range(row.repeats):
            for name in (OURS, STOCK) if number % 2 else (STOCK, OURS):
                samples[name].append(workers[name].separate(song))
    samples[COMMAND] = [_command(models, row.model, song, folder) for _ in range(row.commands)]
    return samples


def _song(path: Path, seconds: float) -> Path:
    song = render_song(seconds=seconds)
    soundfile.write(path, song.mixture.T, song.sample_rate, subtype="PCM_16")
    return path


@dataclass(frozen=True, slots=True)
class _Worker:
    to: IO[str]
    answers: IO[str]

    def separate(self, song: Path) -> Sample:
        self.to.write(f"{song}\n")
        self.to.flush()
        for line in self.answers:
            if line.startswith("{"):
                return Sample(**json.loads(line))
        raise RuntimeError("a worker ended: run it by hand to see why (python -m benchmarks.separate.worker)")


@contextmanager
def _worker(name: str, models: Path, model: str, folder: Path) -> Iterator[_Worker]:
    output = folder / name
    output.mkdir()
    command = (sys.executable, "-m", "benchmarks.separate.worker", name, str(models), model, str(output))
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield _Worker(process.stdin, process.stdout)
        except BaseException:
            process.kill()
            raise
        # Leaving the block closes its standard input and waits for it.


def _command(models: Path, model: str, song: Path, folder: Path) -> Sample:
    output = folder / COMMAND
    output.mkdir(exist_ok=True)
    program = Path(sys.executable).with_name("audio-separator")
    options = ("-m", model, "--model_file_dir", str(models), "--output_dir", str(output), "--output_format", "WAV")
    done = measure((str(program), str(song), *options), timeout=PATIENCE, environment=os.environ, folder=output)
    if done.exit_code or len(list(output.glob("*.wav"))) != 2:
        raise RuntimeError(f"audio-separator ended with status {done.exit_code}, or without its stems")
    return Sample(done.wall, done.peak)
