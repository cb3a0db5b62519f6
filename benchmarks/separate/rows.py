"""The songs and models, and the runs of all contenders over them, in turns."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import soundfile

from benchmarks.download.measure import measure
from benchmarks.models import install_model
from benchmarks.separate.names import COMMAND, OURS, STOCK
from benchmarks.separate.workers import SeparationSample, worker
from demo.centre_model import DEMO_MODEL_NAME
from demo.random_network import Shape
from demo.song import render_song

#: What a run may take before it counts as hung, s.
PATIENCE: Final = 1800.0


@dataclass(frozen=True, slots=True)
class SeparationRow:
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

    def quick(self) -> SeparationRow:
        """Short, once."""
        return replace(self, seconds=min(self.seconds, 12.0), repeats=1, commands=1)


ROWS: Final = (
    SeparationRow("demo", "the demo model", DEMO_MODEL_NAME, None, seconds=60.0, repeats=5, commands=2),
    SeparationRow("g32", "a random network, g = 32", "random-g32.onnx", Shape(), seconds=30.0, repeats=3, commands=1),
    SeparationRow(
        "g48", "a random network, g = 48", "random-g48.onnx", Shape(growth=48), seconds=30.0, repeats=3, commands=1
    ),
)

Samples = dict[str, list[SeparationSample]]


def run_separation_row(row: SeparationRow, folder: Path) -> Samples:
    """All runs of a row, in a folder that is the row's own."""
    songs = folder / "songs"
    songs.mkdir()
    model = install_model(folder / "models", row.model, row.shape)
    song, short = (put_song(songs / name, long) for name, long in (("song.wav", row.seconds), ("short.wav", 1.0)))
    samples: Samples = {OURS: [], STOCK: [], COMMAND: []}
    with ExitStack() as stack:
        start = {name: worker(name, [model], folder / name, os.environ) for name in (OURS, STOCK)}
        workers = {name: stack.enter_context(each) for name, each in start.items()}
        for each in workers.values():
            each.separate(model, short)  # whatever is loaded and allocated at first use
        for number in range(row.repeats):
            for name in (OURS, STOCK) if number % 2 else (STOCK, OURS):
                samples[name].append(workers[name].separate(model, song))
    samples[COMMAND] = [_command(model, song, folder) for _ in range(row.commands)]
    return samples


def put_song(path: Path, seconds: float) -> Path:
    """A song of that length at ``path``, 16 bits; the path."""
    song = render_song(seconds=seconds)
    soundfile.write(path, song.mixture.T, song.sample_rate, subtype="PCM_16")
    return path


def _command(model: Path, song: Path, folder: Path) -> SeparationSample:
    output = folder / COMMAND
    output.mkdir(exist_ok=True)
    program = Path(sys.executable).with_name("audio-separator")
    options = ("-m", model.name, "--model_file_dir", str(model.parent), "--output_dir", str(output))
    done = measure(
        (str(program), str(song), *options, "--output_format", "WAV"),
        timeout=PATIENCE,
        environment=os.environ,
        folder=output,
    )
    if done.exit_code or len(list(output.glob("*.wav"))) != 2:
        raise RuntimeError(f"audio-separator ended with status {done.exit_code}, or without its stems")
    return SeparationSample(done.wall, done.peak)
