"""MDX networks over a song, in memory that does not depend on its length.

audio-separator's own way, with its parameters: the same segments, transforms, windows and sums, and the second stem is
the mixture less the first, times the model's ``compensate``. What is left out makes no difference to the stems: its
second pass over the song, whose result it throws away, and segments of nothing but padding.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import Any

from torch import Tensor

from processor.drivers import Lighter, OnProgress, Write
from processor.drivers.cuts import Grid
from processor.drivers.lane import Lane, lane_to
from processor.drivers.network import Network, network_of, transform_device
from processor.drivers.options import DeviceOptions
from processor.drivers.overlapping import overlap_added
from processor.drivers.precision import noise
from processor.drivers.song import CHANNELS, opened
from processor.drivers.spectrum import Spectrum
from processor.stems import stem_key


class MdxDriver:
    """A loaded ``MDXSeparator``, driven: its network, its parameters, none of its loops."""

    def __init__(self, model: Any, options: DeviceOptions | None = None, *, lane: Lane | None = None) -> None:
        """``options``: how the network is run. ``lane``: instead of the device's."""
        self._device = transform_device(model)
        self._lane = lane or lane_to(self._device)
        self._spectrum = Spectrum(model.n_fft, model.hop_length, model.dim_f, self._device)
        self._trim = model.n_fft // 2
        self._segment = model.hop_length * (model.segment_size - 1)
        self.network: Network = network_of(model, options or DeviceOptions(), self._probe)
        self._batch = self.network.batch
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
            blocks = overlap_added(
                song, grid, self._separated, self._lane, self._device, on_progress, batch=self._batch
            )
            with closing(blocks):
                for block in blocks:
                    primary = block.T
                    rest = whole.read(len(primary), dtype="float32")
                    write(self._secondary, (-primary * self._compensate) + rest)
                    write(self._primary, primary)

    def _separated(self, waves: Tensor) -> Tensor:
        """The primary stem of segments ``(batch, channels, frames)``."""
        return self._spectrum.inverse(self._predicted(self._spectrum.forward(waves)))

    def _probe(self, batch: int) -> Tensor:
        return self._spectrum.forward(noise(batch, CHANNELS, self._segment, device=self._device))

    def _predicted(self, spectra: Tensor) -> Tensor:
        if not self._denoise:
            return self.network(spectra)
        # What the network adds by itself does not change its sign with the song's.
        return self.network(-spectra) * -0.5 + self.network(spectra) * 0.5
