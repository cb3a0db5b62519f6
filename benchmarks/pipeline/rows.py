"""The models, and the passes of the services and of the sequential program over the same songs, in turns."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final

from benchmarks.conversation import conversation
from benchmarks.models import install_model
from benchmarks.pipeline.hooks import Hooks, hooks_taken
from benchmarks.pipeline.services import BusyWatch, busy_once_warm, post, services
from benchmarks.pipeline.songs import ServedSong, songs_served
from demo.centre_model import DEMO_MODEL_NAME
from demo.random_network import Shape
from devstack.stack import Stack
from pipeline.storage.factory import s3_options

#: What a pass may take before it counts as hung, s.
PATIENCE: Final = 1800.0

_WARM_UP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class PipelineRow:
    """One model, and what it is given."""

    name: str
    title: str
    model: str
    shape: Shape | None
    """None: it is the demo model."""
    lengths: tuple[float, ...]
    """Of the songs, s, in the order in which they are asked for."""
    repeats: int

    def quick(self) -> PipelineRow:
        """A few short songs, once."""
        return replace(self, lengths=self.lengths[:3] if self.shape is None else (4.0, 6.0), repeats=1)


ROWS: Final = (
    PipelineRow(
        "light",
        "a light model (the demo model)",
        DEMO_MODEL_NAME,
        None,
        lengths=(30, 60, 90, 120, 45, 300, 60, 180, 75, 30, 150, 240),
        repeats=2,
    ),
    PipelineRow(
        "heavy",
        "a heavy model (a random MDX network, g = 16)",
        "random-g16.onnx",
        Shape(growth=16),
        lengths=(30, 45, 60, 30, 40, 35),
        repeats=1,
    ),
)


@dataclass(frozen=True, slots=True)
class Pass:
    """All songs of a row, once. Times in s."""

    wall: float
    """From the first request to the last webhook."""
    busy: float
    """In which the engine separated."""
    share: float
    """Of the time in which the engine separated, from its first song's begin to its last one's end."""
    jobs: tuple[float, ...]
    """From the request (of the sequential program: from its turn) to the webhook, of each job."""


@dataclass(frozen=True, slots=True)
class Passes:
    """What a row has come to."""

    services: list[Pass]
    sequential: list[Pass]


def run_rows(
    rows: Sequence[PipelineRow], folder: Path, settings: Mapping[str, str]
) -> list[tuple[PipelineRow, Passes]]:
    """All passes of all rows, on the same servers. ``folder`` is empty; ``settings``: see ``services``.

    Raises DevstackError if a server or service cannot be had.
    """
    models, program = folder / "models", folder / "sequential"
    program.mkdir()
    install_model(models, DEMO_MODEL_NAME, None)  # which is the services' own in any case
    for row in rows:
        install_model(models, row.model, row.shape)
    with (
        hooks_taken() as hooks,
        services(folder / "services", models, settings) as stack,
        _sequential(stack, models, program) as baseline,
    ):
        contestants = Contestants(stack, baseline, hooks)
        return [(row, _run_row(row, contestants, folder / f"songs-{row.name}")) for row in rows]


def _run_row(row: PipelineRow, contestants: Contestants, folder: Path) -> Passes:
    with songs_served(folder, (_WARM_UP_SECONDS, *row.lengths)) as (warm_up, *songs):
        contestants.by_services([warm_up], row.model)
        contestants.one_by_one([warm_up], row.model)
        passes = Passes([], [])
        turns = ((passes.services, contestants.by_services), (passes.sequential, contestants.one_by_one))
        for number in range(row.repeats):
            for runs, run in reversed(turns) if number % 2 else turns:
                runs.append(run(songs, row.model))
        return passes


@dataclass(frozen=True, slots=True)
class _Program:
    """The sequential program, running."""

    to: IO[str]
    answers: IO[str]

    def do(self, job: dict[str, str]) -> float:
        """Have a job done; returns how long its separation took, s."""
        self.to.write(f"{json.dumps(job)}\n")
        self.to.flush()
        for line in self.answers:
            return float(line)
        raise RuntimeError("the sequential program has ended; its log is beside its working files")


@dataclass(frozen=True, slots=True)
class Contestants:
    """Both of them, warm."""

    stack: Stack
    baseline: _Program
    hooks: Hooks

    def by_services(self, songs: Sequence[ServedSong], model: str) -> Pass:
        """Ask the services for all songs at once."""
        with BusyWatch(self.stack) as watch:
            started = time.monotonic()
            asked: dict[str, float] = {}
            for song in songs:
                at = time.monotonic()
                asked[post(self.stack, song.url(uuid.uuid4().hex), self.hooks.url, model)] = at
            ends = self.hooks.wait(asked, PATIENCE, self.stack.require_running)
        busy, share = busy_once_warm(watch.looks)
        jobs = tuple(ends[task] - at for task, at in asked.items())
        return Pass(max(ends.values()) - started, busy, share, jobs)

    def one_by_one(self, songs: Sequence[ServedSong], model: str) -> Pass:
        """Have the sequential program do one song after the other."""
        started, busy, jobs = time.monotonic(), 0.0, []
        for song in songs:
            task, at = uuid.uuid4().hex, time.monotonic()
            audio = song.url(uuid.uuid4().hex)
            busy += self.baseline.do({"task": task, "audio": audio, "hook_url": self.hooks.url, "model": model})
            jobs.append(self.hooks.wait([task], PATIENCE)[task] - at)
        wall = time.monotonic() - started
        return Pass(wall, busy, busy / wall, tuple(jobs))


@contextmanager
def _sequential(stack: Stack, models: Path, folder: Path) -> Iterator[_Program]:
    options = s3_options(stack.settings().storage)
    arguments = (str(models), str(folder), options.bucket, options.endpoint_url or "")
    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": options.access_key_id or "",
        "AWS_SECRET_ACCESS_KEY": options.secret_access_key or "",
        "AWS_DEFAULT_REGION": options.region,
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    with (
        (folder / "log").open("wb") as log,
        conversation("benchmarks.pipeline.sequential", *arguments, environment=environment, log=log) as (to, answers),
    ):
        yield _Program(to, answers)
