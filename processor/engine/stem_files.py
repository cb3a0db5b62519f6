"""The files of a job's stems, written block by block at the song's own level: all of them or none."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from pipeline.files import file_sha256
from pipeline.stem_name import stem_segment
from processor.audio.wav import SAMPLE_RATE, Samples, WavWriter
from processor.ipc import Separate, Stem
from processor.separation.stems import StemMissingError, require_known


class StemFiles:
    """The files of one job. A context manager that removes the files unless ``finish`` has completed them."""

    def __init__(self, job: Separate) -> None:
        self._job = job
        self._level = np.float32(job.peak)
        self._files: dict[str, WavWriter] = {}
        self._unfinished: list[Path] = []
        #: The names of all stems that were received, wanted or not, in order.
        self.names: dict[str, None] = {}

    def write(self, name: str, block: Samples) -> None:
        """Append ``(frames, channels)``, at the scale of the mixture, to the stem ``name`` if it is wanted.

        Raises StemMissingError for samples that are not finite, and OSError.
        """
        self.names[name] = None
        if self._job.stems and name not in self._job.stems:
            return
        if name not in self._files:
            path = self._job.folder / f"{stem_segment(name)}.wav"
            self._unfinished.append(path)
            self._files[name] = WavWriter(path, block.shape[1])
        if not math.isfinite(self._files[name].write(block * self._level)):
            raise StemMissingError(f"{name} has samples that are no numbers")

    def finish(self, expected: Iterable[str] = ()) -> tuple[Stem, ...]:
        """Complete the files and return the stems in the order in which the job lists them.

        Raises StemMissingError for an ``expected`` stem that was not received, and for a stem that is not as long as
        the song; PermanentError for a wanted stem that was not received; OSError.
        """
        absent = set(expected) - self.names.keys()
        if absent:
            raise StemMissingError(f"the model gave no {' and no '.join(sorted(absent))}")
        require_known(self._job.stems, self.names)
        stems = tuple(self._finish_file(name) for name in dict.fromkeys(self._job.stems or self.names))
        self._unfinished.clear()
        return stems

    def _finish_file(self, name: str) -> Stem:
        file = self._files[name]
        file.close()
        if file.written.frames != self._job.frames:
            raise StemMissingError(f"{name} has {file.written.frames} samples, the song has {self._job.frames}")
        return Stem(
            name=name,
            path=file.path,
            sha256=file_sha256(file.path),
            bytes=file.path.stat().st_size,
            frames=file.written.frames,
            sample_rate=SAMPLE_RATE,
            channels=file.channels,
            peak=file.written.peak,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for file in self._files.values():
            with suppress(OSError):  # from a file that was removed or closed before
                file.close()
        for path in self._unfinished:
            with suppress(OSError):  # another error may be propagating already
                path.unlink()
