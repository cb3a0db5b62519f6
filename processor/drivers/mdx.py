"""MDX networks over a song, in memory that does not depend on its length.

audio-separator's own way, with its parameters: the same segments, transforms, windows and sums, and the second stem is
the mixture less the first, times the model's ``compensate``. What is left out makes no difference to the stems: its
second pass over the song, whose result it throws away, and segments of nothing but padding.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor

from processor.drivers import Lighter, OnProgress, Write
from processor.drivers.batches import Sent, batches
from processor.drivers.cuts import Grid
from processor.drivers.lane import Fetched, Lane, lane_to
from processor.drivers.network import Network, network_of, transform_device
from processor.drivers.options import DeviceOptions
from processor.drivers.precision import noise
from processor.drivers.segments import OverlapAdd, segments
from processor.drivers.song import CHANNELS, opened
from processor.drivers.spectrum import Spectrum
from processor.stems import stem_key
from processor.wav import Samples


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
            with closing(self._separated(song, grid, on_progress)) as blocks:
                for primary in blocks:
                    rest = whole.read(len(primary), dtype="float32")
                    write(self._secondary, (-primary * self._compensate) + rest)
                    write(self._primary, primary)

    def _separated(
        self, song: soundfile.SoundFile, grid: Grid, on_progress: OnProgress
    ) -> Generator[Samples, None, None]:
        """The primary stem's blocks ``(frames, channels)``."""
        total = OverlapAdd(grid, place=lambda array: torch.from_numpy(array).to(self._device))
        sent = batches(segments(song, grid), self._batch, self._lane)
        on_progress(0.0)
        with closing(self._lane.map(lambda batch: self._run(total, batch), sent)) as results:
            for number, fetched in enumerate(results, 1):
                yield fetched().T
                on_progress(min(1.0, number * self._batch / grid.count))

    @torch.inference_mode()
    def _run(self, total: OverlapAdd, batch: Sent) -> Fetched:
        """Segments ``(batch, channels, frames)`` through the network, and added to what there is of the song."""
        count, arrived = batch
        separated = self._spectrum.inverse(self._predicted(self._spectrum.forward(arrived())))
        blocks = [total.add(segment) for segment in separated[:count]]
        return self._lane.fetch(torch.cat(blocks, dim=-1))

    def _probe(self, batch: int) -> Tensor:
        return self._spectrum.forward(noise(batch, CHANNELS, self._segment, device=self._device))

    def _predicted(self, spectra: Tensor) -> Tensor:
        if not self._denoise:
            return self.network(spectra)
        # What the network adds by itself does not change its sign with the song's.
        return self.network(-spectra) * -0.5 + self.network(spectra) * 0.5
