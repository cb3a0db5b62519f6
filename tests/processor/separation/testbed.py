"""What the tests of all drivers have in common: models, songs, and the process that has audio-separator."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pipeline.errors import ErrorCode, ErrorKind
from processor.audio.decode import Mixture
from processor.audio.wav import SAMPLE_RATE, Samples, write_wav
from processor.ipc import Stem
from tests.processor.separation import upstream as experiments
from tests.processor.separation.upstream import Refusal, Stems

#: What every model's song is refused with that has samples that are no numbers, or none.
NOT_SEPARABLE = Refusal(ErrorKind.PERMANENT, ErrorCode.SEPARATION_FAILED, "the model cannot separate this audio")
#: What a test may take in the other process, s.
DEADLINE = 110.0


@dataclass(frozen=True)
class Lab:
    """Models of one architecture in ``models``; tests call them by their names without the ``suffix``."""

    library: ProcessPoolExecutor
    scratch: Path
    folder: Path
    models: Path
    suffix: ClassVar[str]

    def call(self, experiment: Any, *args: Any, **options: Any) -> Any:
        return self.library.submit(experiment, *args, **options).result(DEADLINE)

    def mixture(self, samples: Samples) -> Mixture:
        """Of samples ``(frames, channels)``; there is one at a time."""
        path = self.folder / "song.wav"
        write_wav(path, [samples], channels=2)
        return Mixture(path, 1.0, len(samples), ())

    def stock(self, mixture: Mixture, model: str, **options: Any) -> Stems:
        """What audio-separator makes of it."""
        model += self.suffix
        return self._stems(experiments.stock_stems, self.models, mixture.path, self.scratch, model=model, **options)

    def run(self, mixture: Mixture, model: str, **options: Any) -> tuple[tuple[Stem, ...] | Refusal, list[float]]:
        """What the engine makes of it, and the progress."""
        model += self.suffix
        outcome: tuple[tuple[Stem, ...] | Refusal, list[float]] = self.call(
            experiments.run, self.models, self.scratch, mixture, self.folder, model=model, **options
        )
        return outcome

    def separated(self, mixture: Mixture, model: str, **options: Any) -> tuple[Stem, ...]:
        """The same, if it is nothing else than stems."""
        stems, progress = self.run(mixture, model, **options)
        assert not isinstance(stems, Refusal), stems
        assert progress == sorted(progress)
        assert (progress[0], progress[-1]) == (0.0, 1.0)
        return stems

    def refused(self, mixture: Mixture, model: str, **options: Any) -> Refusal:
        """Why the engine makes nothing of it. Nothing is left but the song."""
        refusal, _ = self.run(mixture, model, **options)
        assert isinstance(refusal, Refusal), refusal
        assert [path.name for path in self.folder.glob("*.wav")] == [mixture.path.name]
        return refusal

    def growth(self, short: int, long: int, *models: str) -> int:
        """How much more memory the models take for a song of ``long`` seconds than for one of ``short``, bytes."""
        second = np.random.default_rng(0).uniform(-1.0, 1.0, (SAMPLE_RATE, 2)).astype(np.float32)
        mixtures = []
        for seconds in (short, long):
            path = self.folder / f"{seconds}.wav"
            write_wav(path, [second] * seconds, channels=2)
            mixtures.append(Mixture(path, 1.0, seconds * SAMPLE_RATE, ()))
        names = [f"{model}{self.suffix}" for model in models]
        # The first time is for what is loaded and allocated once.
        songs = [mixtures[0], *mixtures]
        peaks = self.call(experiments.peaks, self.models, self.scratch, songs, self.folder, names)
        return int(peaks[-1] - peaks[-2])

    def _stems(self, experiment: Any, *args: Any, **options: Any) -> Stems:
        stems: Stems = self.call(experiment, *args, **options)
        return stems


def assert_equal(ours: Stems, stock: Stems) -> None:
    """To the bit."""
    assert ours.keys() == stock.keys()
    for name, samples in stock.items():
        np.testing.assert_array_equal(ours[name], samples)
