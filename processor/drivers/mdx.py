"""MDX networks over a song, in memory that does not depend on its length.

audio-separator's own way, with its parameters: the same segments, transforms, windows and sums, and the second stem is
the mixture less the first, times the model's ``compensate``. What is left out makes no difference to the stems: its
second pass over the song, whose result it throws away, and segments of nothing but padding.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from processor.drivers import Lighter, OnProgress, Write
from processor.drivers.cuts import Grid
from processor.drivers.network import Network, network_of, transform_device
from processor.drivers.segments import OverlapAdd, segments
from processor.drivers.song import opened
from processor.drivers.spectrum import Spectrum
from processor.stems import stem_key
from processor.wav import Samples


class MdxDriver:
    """A loaded ``MDXSeparator``, driven: its network, its parameters, none of its loops."""

    def __init__(self, model: Any, network: Network | None = None) -> None:
        """``network``: instead of the model's own."""
        self.network = network or network_of(model)
        self._batch = self.network.batch
        self._device = transform_device(model)
        self._spectrum = Spectrum(model.n_fft, model.hop_length, model.dim_f, self._device)
        self._trim = model.n_fft // 2
        self._segment = model.hop_length * (model.segment_size - 1)
        self._overlap = model.overlap
        self._compensate = model.compensate
        self._denoise = model.enable_denoise
        self._primary = stem_key(model.primary_stem_name)
        self._secondary = stem_key(model.secondary_stem_name)

    @property
    def device(self) -> str:
        """See ``Driver``."""
        return self.network.device

    @property
    def stems(self) -> frozenset[str]:
        """See ``Driver``."""
        return frozenset((self._primary, self._secondary))

    def only(self, wanted: Collection[str]) -> MdxDriver:
        """See ``Driver``. Itself: the second stem is what the first one leaves."""
        return self

    def lighter(self) -> Lighter | None:
        """See ``Driver``. A segment at a time; how long that is, the network was made for."""
        if self._batch == 1:
            return None
        driver = copy.copy(self)
        driver._batch = 1
        return Lighter("batch_1", driver)

    def separate(self, mixture: Path, write: Write, on_progress: OnProgress) -> None:
        """See ``Driver``."""
        with opened(mixture) as song, opened(mixture) as whole:
            grid = Grid(song.frames, self._segment, self._overlap, self._trim)
            for primary in self._separated(song, grid, on_progress):
                rest = whole.read(len(primary), dtype="float32")
                write(self._secondary, (-primary * self._compensate) + rest)
                write(self._primary, primary)
        on_progress(1.0)

    def _separated(self, song: soundfile.SoundFile, grid: Grid, on_progress: OnProgress) -> Iterator[Samples]:
        """The primary stem's blocks ``(frames, channels)``."""
        total = OverlapAdd(grid)
        done = 0
        for batch in _batches(segments(song, grid), self._batch):
            on_progress(done / grid.count)
            for segment in self._run(batch):
                yield total.add(segment).T
            done += len(batch)

    @torch.inference_mode()
    def _run(self, waves: Samples) -> Samples:
        """Segments ``(batch, channels, frames)`` through the network."""
        spectra = self._spectrum.forward(torch.from_numpy(waves).to(self._device))
        separated: NDArray[np.float32] = self._spectrum.inverse(self._predicted(spectra)).cpu().numpy()
        return separated

    def _predicted(self, spectra: Tensor) -> Tensor:
        if not self._denoise:
            return self.network(spectra)
        # What the network adds by itself does not change its sign with the song's.
        return self.network(-spectra) * -0.5 + self.network(spectra) * 0.5


def _batches(items: Iterator[Samples], size: int) -> Iterator[Samples]:
    """``size`` segments at a time, in one array; the last may have fewer. Good until the next one is asked for."""
    held = np.empty(0, np.float32)
    while batch := list(itertools.islice(map(np.copy, items), size)):
        held = np.stack(batch) if len(batch) != len(held) else np.stack(batch, out=held)
        yield held
