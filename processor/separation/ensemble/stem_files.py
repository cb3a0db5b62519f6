"""The stems of one model of an ensemble, kept on the disk until the other models are done."""

from __future__ import annotations

import math
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path

from pipeline.stem_name import stem_segment
from processor.audio.wav import Samples, WavWriter
from processor.separation.stems import StemMissingError


class ModelStems(ExitStack):
    """Writes the stems of one model as float WAVs. A context manager that closes the files."""

    def __init__(self, folder: Path, frames: int, unwanted: Collection[str]) -> None:
        """``frames``: length of the song. ``unwanted``: stems that are not stored."""
        super().__init__()
        self._folder, self._frames, self._unwanted = folder, frames, unwanted
        self._files: dict[str, WavWriter] = {}
        self._received: set[str] = set()

    def write(self, name: str, block: Samples) -> None:
        """Append ``(frames, channels)``. Raises StemMissingError for samples that are not finite, and OSError."""
        self._received.add(name)
        if name in self._unwanted:
            return
        if name not in self._files:
            writer = WavWriter(self._folder / f"{stem_segment(name)}.wav", block.shape[1])
            self._files[name] = self.enter_context(writer)
        if not math.isfinite(self._files[name].write(block)):
            raise StemMissingError(f"{name} has samples that are no numbers")

    def finish(self, expected: Collection[str]) -> dict[str, Path]:
        """Complete the files and return their paths by stem.

        Raises StemMissingError if an ``expected`` stem is missing or a stem is not as long as the song, and OSError.
        """
        absent = set(expected) - self._received
        if absent:
            raise StemMissingError(f"the model gave no {' and no '.join(sorted(absent))}")
        for name, file in self._files.items():
            if file.written.frames != self._frames:
                raise StemMissingError(f"{name} has {file.written.frames} samples, the song has {self._frames}")
        self.close()
        return {name: file.path for name, file in self._files.items()}
