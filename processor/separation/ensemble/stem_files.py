"""What one model of an ensemble gives, on the disk until the others are done."""

from __future__ import annotations

import math
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from processor.audio.wav import Samples, WavWriter
from processor.separation.stems import StemMissingError


class ModelStems:
    """The stems of one model as float WAVs in ``folder``. A context manager, which closes them."""

    def __init__(self, folder: Path, frames: int, unwanted: Collection[str]) -> None:
        """``frames``: length of the song. ``unwanted``: what need not be kept."""
        self._folder, self._frames, self._unwanted = folder, frames, unwanted
        self._open = ExitStack()
        self._files: dict[str, WavWriter] = {}
        self._given: set[str] = set()

    def write(self, name: str, block: Samples) -> None:
        """Append ``(frames, channels)``. Raises StemMissingError for samples that are no numbers, and OSError."""
        self._given.add(name)
        if name in self._unwanted:
            return
        if name not in self._files:
            writer = WavWriter(self._folder / f"{name}.wav", block.shape[1])
            self._files[name] = self._open.enter_context(writer)
        if not math.isfinite(self._files[name].write(block)):
            raise StemMissingError(f"{name} has samples that are no numbers")

    def finish(self, promised: Collection[str]) -> dict[str, Path]:
        """Complete the files. Raises StemMissingError if one that was ``promised`` is missing or is not as long as the
        song, and OSError."""
        absent = set(promised) - self._given
        if absent:
            raise StemMissingError(f"the model gave no {' and no '.join(sorted(absent))}")
        for name, file in self._files.items():
            if file.written.frames != self._frames:
                raise StemMissingError(f"{name} has {file.written.frames} samples, the song has {self._frames}")
        self._open.close()
        return {name: file.path for name, file in self._files.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.__exit__(kind, error, at)
