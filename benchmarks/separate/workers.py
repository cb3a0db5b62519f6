"""The benchmark's side of worker processes. ``worker`` is the program that they run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.conversation import conversation


@dataclass(frozen=True, slots=True)
class SeparationSample:
    """One run."""

    wall: float
    """s."""
    peak: int
    """Largest resident set of the process so far, bytes."""
    in_network: float | None = None
    """s; None if unknown."""


@dataclass(frozen=True, slots=True)
class BenchmarkWorker:
    """A process with warm models."""

    to: IO[str]
    answers: IO[str]

    def separate(self, model: Path, song: Path) -> SeparationSample:
        """Separate one song."""
        self.begin(model, song)
        return self.end()

    def begin(self, model: Path, song: Path) -> None:
        """Request the separation of a song."""
        self.to.write(f"{model}\t{song}\n")
        self.to.flush()

    def end(self) -> SeparationSample:
        """Wait for the requested song. Raises RuntimeError if the process has ended."""
        for line in self.answers:
            if line.startswith("{"):
                return SeparationSample(**json.loads(line))
        raise RuntimeError("a worker ended: run it by hand to see why (python -m benchmarks.separate.worker)")


@contextmanager
def worker(
    name: str, models: Sequence[Path], folder: Path, environment: Mapping[str, str]
) -> Iterator[BenchmarkWorker]:
    """Run the contender ``name`` with these models in a process that writes to the new ``folder``."""
    folder.mkdir()
    arguments = (name, str(folder), *map(str, models))
    with conversation("benchmarks.separate.worker", *arguments, environment=environment) as (to, answers):
        yield BenchmarkWorker(to, answers)
