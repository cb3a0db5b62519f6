"""Run alternating passes of the services and of the sequential program over the same songs, for each model."""

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
from benchmarks.pipeline.hooks import Hooks, hook_server
from benchmarks.pipeline.services import BusyMonitor, busy_time, post, services
from benchmarks.pipeline.songs import ServedSong, songs_served
from demo.centre_model import DEMO_MODEL_NAME
from demo.random_network import Shape
from devstack.stack import Stack
from pipeline.storage.factory import s3_options

#: Longest pass, s.
TIMEOUT: Final = 1800.0

_WARM_UP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class PipelineRow:
    """A model, and the songs that it separates."""

    name: str
    title: str
    model: str
    shape: Shape | None
    """None: the demo model."""
    lengths: tuple[float, ...]
    """Lengths of the songs, in the order of the requests, s."""
    repeats: int

    def quick(self) -> PipelineRow:
        """Return the row with a few short songs, once."""
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
    """One pass over all songs of a row. Times in s."""

    wall: float
    """Time from the first request to the last webhook."""
    busy: float
    """Time during which the engine separated."""
    share: float
    """Share of that time in the time from the start of the first separation to the end of the last."""
    jobs: tuple[float, ...]
    """Time from the request (sequential program: from the start of the job) to the webhook, of each job."""


@dataclass(frozen=True, slots=True)
class Passes:
    """The results of a row."""

    services: list[Pass]
    sequential: list[Pass]


def run_rows(
    rows: Sequence[PipelineRow], folder: Path, settings: Mapping[str, str]
) -> list[tuple[PipelineRow, Passes]]:
    """Run all passes of all rows with the same servers. ``folder`` is empty; ``settings``: see ``services``.

    Raises DevstackError if a server or service is not available.
    """
    models, program = folder / "models", folder / "sequential"
    program.mkdir()
    install_model(models, DEMO_MODEL_NAME, None)  # the default model of the services
    for row in rows:
        install_model(models, row.model, row.shape)
    with (
        hook_server() as hooks,
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
    """The sequential program in a process."""

    stdin: IO[str]
    stdout: IO[str]

    def run(self, job: dict[str, str]) -> float:
        """Run a job; return the duration of its separation, s."""
        self.stdin.write(f"{json.dumps(job)}\n")
        self.stdin.flush()
        for line in self.stdout:
            return float(line)
        raise RuntimeError("the sequential program has ended; its log is beside its working files")


@dataclass(frozen=True, slots=True)
class Contestants:
    """The services and the sequential program, after a warm-up."""

    stack: Stack
    baseline: _Program
    hooks: Hooks

    def by_services(self, songs: Sequence[ServedSong], model: str) -> Pass:
        """Post all songs to the services at once."""
        with BusyMonitor(self.stack) as monitor:
            started = time.monotonic()
            requested: dict[str, float] = {}
            for song in songs:
                at = time.monotonic()
                requested[post(self.stack, song.url(uuid.uuid4().hex), self.hooks.url, model)] = at
            ends = self.hooks.wait(requested, TIMEOUT, self.stack.require_running)
        busy, share = busy_time(monitor.samples)
        jobs = tuple(ends[task] - at for task, at in requested.items())
        return Pass(max(ends.values()) - started, busy, share, jobs)

    def one_by_one(self, songs: Sequence[ServedSong], model: str) -> Pass:
        """Run the sequential program over the songs, one after the other."""
        started, busy, jobs = time.monotonic(), 0.0, []
        for song in songs:
            task, at = uuid.uuid4().hex, time.monotonic()
            audio = song.url(uuid.uuid4().hex)
            busy += self.baseline.run({"task": task, "audio": audio, "hook_url": self.hooks.url, "model": model})
            jobs.append(self.hooks.wait([task], TIMEOUT)[task] - at)
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
        "AWS_DEFAULT_REGION": options.region or "us-east-1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    with (
        (folder / "log").open("wb") as log,
        conversation("benchmarks.pipeline.sequential", *arguments, environment=environment, log=log) as (stdin, stdout),
    ):
        yield _Program(stdin, stdout)
