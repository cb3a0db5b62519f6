"""An ensemble as a separator: its models separate the song one after the other, then their stems are combined."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from tempfile import TemporaryDirectory

import soundfile

from pipeline.model_choice import Ensemble
from processor.separation.ensemble.combine import combine_stems
from processor.separation.ensemble.stem_files import ModelStems
from processor.separation.ensemble.stem_names import common_names
from processor.separation.separator import BaseSeparator, OnProgress, Separator, Write, partial_progress

StemPaths = dict[str, Path]

RunModel = Callable[[str, Callable[[Separator], StemPaths]], StemPaths]
"""Returns ``attempt(separator)`` for the model of that name. Calls ``attempt`` again with a reduced separator if memory
runs out. A separator is valid until the next model is requested."""

ModelStemNames = Callable[[str], frozenset[str] | None]
"""Returns ``Separator.stems`` of the model of that name, which may have to be loaded for it."""


class EnsembleSeparator(BaseSeparator):
    """An ensemble for one song.

    All ``wanted`` stems (None: all) of all models are in ``folder`` until the last model is done: 8 bytes per stereo
    frame. They are removed when ``separate`` ends, also after an error. ``only`` returns the separator itself, because
    it knows which stems are wanted; ``reduce_memory`` returns None, because each model has its own variants.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        run_model: RunModel,
        stems_of: ModelStemNames,
        wanted: Collection[str] | None,
        folder: Path,
    ) -> None:
        self._ensemble, self._run_model, self._stems_of, self._folder = ensemble, run_model, stems_of, folder
        self._wanted = wanted
        self._devices: dict[str, None] = {}

    @property
    def device(self) -> str:
        """See ``Separator``. The devices on which the models ran, separated by commas."""
        return ", ".join(self._devices)

    @property
    def stems(self) -> frozenset[str] | None:
        """See ``Separator``."""
        stems = [self._stems_of(model) for model in self._ensemble.ensemble]
        known = [common_names(names).values() for names in stems if names is not None]
        return frozenset().union(*known) if len(known) == len(stems) else None

    def separate(self, mixture: Path, write: Write, on_progress: OnProgress) -> None:
        """See ``Separator``. The progress is the share of all models' work; the combination follows at 1.0."""
        models = self._ensemble.ensemble
        files: dict[str, list[Path]] = {}
        with TemporaryDirectory(prefix="ensemble-", dir=self._folder) as scratch:
            for number, model in enumerate(models):
                folder = Path(scratch) / str(number)
                folder.mkdir()
                progress = partial_progress(on_progress, number, len(models))
                for name, file in self._separate_model(model, mixture, folder, progress):
                    files.setdefault(name, []).append(file)
            for name, takes in files.items():
                for block in combine_stems(self._ensemble.algorithm, takes, self._ensemble.weights):
                    on_progress(1.0)
                    write(name, block)
                for file in takes:
                    file.unlink()

    def _separate_model(
        self, model: str, mixture: Path, folder: Path, on_progress: OnProgress
    ) -> list[tuple[str, Path]]:
        """Return the wanted stems of one model by their common names; two stems may have the same name."""
        expected = self._stems_of(model) or frozenset()
        unwanted = set()
        if self._wanted is not None:
            unwanted = {stem for stem, name in common_names(expected).items() if name not in self._wanted}
        if expected and unwanted == expected:
            return []
        wanted = expected - unwanted

        def attempt(separator: Separator) -> StemPaths:
            with ModelStems(folder, soundfile.info(mixture).frames, unwanted) as stems:
                separator = separator.only(wanted) if unwanted else separator
                separator.separate(mixture, stems.write, on_progress)
                self._devices[separator.device] = None
                return stems.finish(wanted)

        files = self._run_model(model, attempt)
        names = common_names(expected or files.keys())
        named = [(names[stem], file) for stem, file in files.items()]
        return [(name, file) for name, file in named if self._wanted is None or name in self._wanted]
