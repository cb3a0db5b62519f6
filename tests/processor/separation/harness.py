"""Shared by the tests of all separators: models, songs, and calls into the process with audio-separator."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pipeline.errors import ErrorCode, ErrorKind
from processor.audio.decode import Mixture
from processor.audio.wav import SAMPLE_RATE, Samples, write_wav
from processor.ipc import Stem
from tests.processor.separation import upstream_calls as calls
from tests.processor.separation.upstream_calls import Refusal, Stems

#: The error of every model for an empty song, or one with samples that are not finite.
NOT_SEPARABLE = Refusal(ErrorKind.PERMANENT, ErrorCode.SEPARATION_FAILED, "the model cannot separate this audio")
#: Time limit of a call into the other process, s.
DEADLINE = 110.0


@dataclass(frozen=True)
class Harness:
    """Models of one architecture in ``models``. Tests name them without the ``suffix``."""

    upstream_process: ProcessPoolExecutor
    scratch: Path
    folder: Path
    models: Path
    suffix: ClassVar[str]

    def call(self, function: Any, *args: Any, **options: Any) -> Any:
        return self.upstream_process.submit(function, *args, **options).result(DEADLINE)

    def mixture(self, samples: Samples) -> Mixture:
        """Write samples ``(frames, channels)`` to the mixture's file, which is overwritten by the next call."""
        path = self.folder / "song.wav"
        write_wav(path, [samples], channels=2)
        return Mixture(path, 1.0, len(samples), ())

    def upstream(self, mixture: Mixture, model: str, **options: Any) -> Stems:
        """Return audio-separator's stems."""
        model += self.suffix
        return self._stems(calls.upstream_stems, self.models, mixture.path, self.scratch, model=model, **options)

    def run(self, mixture: Mixture, model: str, **options: Any) -> tuple[tuple[Stem, ...] | Refusal, list[float]]:
        """Return the engine's stems or error, and the reported progress."""
        model += self.suffix
        outcome: tuple[tuple[Stem, ...] | Refusal, list[float]] = self.call(
            calls.run, self.models, self.scratch, mixture, self.folder, model=model, **options
        )
        return outcome

    def separated(self, mixture: Mixture, model: str, **options: Any) -> tuple[Stem, ...]:
        """Return the engine's stems, after checking that the separation succeeded and its progress is complete."""
        stems, progress = self.run(mixture, model, **options)
        assert not isinstance(stems, Refusal), stems
        assert progress == sorted(progress)
        assert (progress[0], progress[-1]) == (0.0, 1.0)
        return stems

    def refused(self, mixture: Mixture, model: str, **options: Any) -> Refusal:
        """Return the engine's error, after checking that only the mixture's file is left."""
        refusal, _ = self.run(mixture, model, **options)
        assert isinstance(refusal, Refusal), refusal
        assert [path.name for path in self.folder.glob("*.wav")] == [mixture.path.name]
        return refusal

    def growth(self, short: int, long: int, *models: str) -> int:
        """Return how many more bytes of memory the models take for a song of ``long`` than for one of ``short``, s."""
        second = np.random.default_rng(0).uniform(-1.0, 1.0, (SAMPLE_RATE, 2)).astype(np.float32)
        mixtures = []
        for seconds in (short, long):
            path = self.folder / f"{seconds}.wav"
            write_wav(path, [second] * seconds, channels=2)
            mixtures.append(Mixture(path, 1.0, seconds * SAMPLE_RATE, ()))
        names = [f"{model}{self.suffix}" for model in models]
        # The first run includes what is loaded and allocated once.
        songs = [mixtures[0], *mixtures]
        # A process of its own: what earlier tests left in the shared one makes the peaks vary by tens of MiB.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            arguments = (self.models, self.scratch, songs, self.folder, names)
            peaks: list[int] = fresh.submit(calls.peaks, *arguments).result(DEADLINE)
        return peaks[-1] - peaks[-2]

    def _stems(self, function: Any, *args: Any, **options: Any) -> Stems:
        stems: Stems = self.call(function, *args, **options)
        return stems


def assert_equal(ours: Stems, upstream: Stems) -> None:
    """Assert that the stems are the same bit for bit."""
    assert ours.keys() == upstream.keys()
    for name, samples in upstream.items():
        np.testing.assert_array_equal(ours[name], samples)
