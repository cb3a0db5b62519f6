"""The songs and models, and the alternating runs of all contenders."""

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
from benchmarks.separate.names import COMMAND, ENGINE, UPSTREAM
from benchmarks.separate.workers import SeparationSample, worker
from demo.centre_model import DEMO_MODEL_NAME
from demo.random_network import Shape
from demo.song import render_song

#: Time limit of a run, s.
RUN_TIMEOUT: Final = 1800.0


@dataclass(frozen=True, slots=True)
class SeparationRow:
    """One model and one song."""

    name: str
    title: str
    model: str
    shape: Shape | None
    """None: the demo model."""
    seconds: float
    """Length of the song."""
    repeats: int
    commands: int
    """Number of runs of the command, which loads its model each time."""

    def quick(self) -> SeparationRow:
        """Return the row with a short song and one repeat."""
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
    """Run a row and return all samples. ``folder``: empty, for this row only."""
    songs = folder / "songs"
    songs.mkdir()
    model = install_model(folder / "models", row.model, row.shape)
    song, short = (put_song(songs / name, long) for name, long in (("song.wav", row.seconds), ("short.wav", 1.0)))
    samples: Samples = {ENGINE: [], UPSTREAM: [], COMMAND: []}
    with ExitStack() as stack:
        start = {name: worker(name, [model], folder / name, os.environ) for name in (ENGINE, UPSTREAM)}
        workers = {name: stack.enter_context(each) for name, each in start.items()}
        for each in workers.values():
            each.separate(model, short)  # warm-up: loading and allocation at first use
        for number in range(row.repeats):
            for name in (ENGINE, UPSTREAM) if number % 2 else (UPSTREAM, ENGINE):
                samples[name].append(workers[name].separate(model, song))
    samples[COMMAND] = [_command(model, song, folder) for _ in range(row.commands)]
    return samples


def put_song(path: Path, seconds: float) -> Path:
    """Write a 16-bit song of ``seconds`` to ``path`` and return the path."""
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
        timeout=RUN_TIMEOUT,
        environment=os.environ,
        folder=output,
    )
    if done.exit_code or len(list(output.glob("*.wav"))) != 2:
        raise RuntimeError(f"audio-separator ended with status {done.exit_code} or without two stems")
    return SeparationSample(done.wall, done.peak)
