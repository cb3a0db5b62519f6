"""An ensemble as one more driver: its models run over the song in turn, and what they gave is combined in the end."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, TypeVar

import soundfile

from pipeline.model_choice import Ensemble
from processor.separation.ensemble.combine import combine_stems
from processor.separation.ensemble.stem_files import ModelStems
from processor.separation.ensemble.stem_names import common_names
from processor.separation.separator import OnProgress, ReducedSeparator, Separator, Write

Stems = frozenset[str] | None
"""As ``Separator.stems`` has them."""


T = TypeVar("T")


class RunModel(Protocol):
    """Has something done with a model."""

    def __call__(self, model: str, attempt: Callable[[Separator], T]) -> T:
        """What ``attempt`` returns, given the model's driver: one that is good until the next model is asked for.

        It is called again with a lighter one if memory runs out.
        """


@dataclass(frozen=True, slots=True)
class LoadModel:
    """Where an ensemble has its models from."""

    run: RunModel
    stems: Callable[[str], Stems]
    """What it gives. May have to load it."""


class EnsembleSeparator:
    """An ensemble for one song.

    All stems of all models that are ``wanted`` (None: all) lie in ``folder`` until the last model is done: 8 bytes for
    each stereo frame. They are gone when ``separate`` ends, however it ends.
    """

    def __init__(self, ensemble: Ensemble, models: LoadModel, wanted: Collection[str] | None, folder: Path) -> None:
        self._ensemble, self._models, self._folder = ensemble, models, folder
        self._wanted = wanted
        self._devices: dict[str, None] = {}

    @property
    def device(self) -> str:
        """See ``Separator``: where the models ran, with commas between if on several."""
        return ", ".join(self._devices)

    @property
    def stems(self) -> Stems:
        """See ``Separator``."""
        given = [self._models.stems(model) for model in self._ensemble.ensemble]
        known = [common_names(stems).values() for stems in given if stems is not None]
        return frozenset().union(*known) if len(known) == len(given) else None

    def only(self, wanted: Collection[str]) -> EnsembleSeparator:
        """See ``Separator``. Itself: it is made for one song, and knows what is wanted of that."""
        return self

    def lighter(self) -> ReducedSeparator | None:
        """See ``Separator``. None: each of the models has its own."""
        return None

    def separate(self, mixture: Path, write: Write, on_progress: OnProgress) -> None:
        """See ``Separator``. The progress is the share of all models' work; combining their stems comes after it."""
        models = self._ensemble.ensemble
        given: dict[str, list[Path]] = {}
        with TemporaryDirectory(prefix="ensemble-", dir=self._folder) as scratch:
            for number, model in enumerate(models):
                folder = Path(scratch) / str(number)
                folder.mkdir()
                for name, file in self._separated(model, mixture, folder, _share(on_progress, number, len(models))):
                    given.setdefault(name, []).append(file)
            for name, files in given.items():
                self._combine(name, files, write, on_progress)

    def _separated(self, model: str, mixture: Path, folder: Path, on_progress: OnProgress) -> list[tuple[str, Path]]:
        """The wanted stems of one model, by their common names, of which two may have the same one."""
        promised = self._models.stems(model) or frozenset()
        unwanted = {stem for stem, name in common_names(promised).items() if not self._wants(name)}
        if promised and unwanted == promised:
            return []

        wanted = promised - unwanted

        def attempt(separator: Separator) -> dict[str, Path]:
            with ModelStems(folder, soundfile.info(mixture).frames, unwanted) as stems:
                separator = separator.only(wanted) if unwanted else separator
                separator.separate(mixture, stems.write, on_progress)
                self._devices[separator.device] = None
                return stems.finish(wanted)

        files = self._models.run(model, attempt)
        names = common_names(promised or files.keys())
        return [(names[stem], file) for stem, file in files.items() if self._wants(names[stem])]

    def _wants(self, name: str) -> bool:
        return self._wanted is None or name in self._wanted

    def _combine(self, name: str, files: list[Path], write: Write, on_progress: OnProgress) -> None:
        for block in combine_stems(self._ensemble.algorithm, files, self._ensemble.weights):
            on_progress(1.0)
            write(name, block)
        for file in files:
            file.unlink()


def _share(on_progress: OnProgress, number: int, models: int) -> OnProgress:
    """Of the whole, for model ``number``."""
    return lambda fraction: on_progress((number + fraction) / models)
