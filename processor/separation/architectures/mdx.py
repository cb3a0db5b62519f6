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

from processor.separation.dsp.mixture import CHANNELS, open_mixture
from processor.separation.dsp.segmentation import TrimmedSegmentation
from processor.separation.dsp.stft import Stft
from processor.separation.options import DeviceOptions
from processor.separation.runtime.device_transfer import DeviceTransfer, transfer_to
from processor.separation.runtime.network import Network, network_of, transform_device
from processor.separation.runtime.precision import noise
from processor.separation.segmentwise import separate_segmentwise
from processor.separation.separator import OnProgress, ReducedSeparator, Write
from processor.separation.stems import normalise_stem_name


class MdxSeparator:
    """A loaded ``MDXSeparator``, driven: its network, its parameters, none of its loops."""

    def __init__(self, model: Any, options: DeviceOptions | None = None, *, lane: DeviceTransfer | None = None) -> None:
        """``options``: how the network is run. ``lane``: instead of the device's."""
        self._device = transform_device(model)
        self._lane = lane or transfer_to(self._device)
        self._spectrum = Stft(model.n_fft, model.hop_length, model.dim_f, self._device)
        self._trim = model.n_fft // 2
        self._segment = model.hop_length * (model.segment_size - 1)
        self.network: Network = network_of(model, options or DeviceOptions(), self._probe)
        self._batch = self.network.batch
        self._overlap = model.overlap
        self._compensate = model.compensate
        self._denoise = model.enable_denoise
        self._primary = normalise_stem_name(model.primary_stem_name)
        self._secondary = normalise_stem_name(model.secondary_stem_name)

    @property
    def device(self) -> str:
        """See ``Separator``."""
        return self.network.device

    @property
    def stems(self) -> frozenset[str]:
        """See ``Separator``."""
        return frozenset((self._primary, self._secondary))

    def only(self, wanted: Collection[str]) -> MdxSeparator:
        """See ``Separator``. Itself: the second stem is what the first one leaves."""
        return self

    def lighter(self) -> ReducedSeparator | None:
        """See ``Separator``. A segment at a time; how long that is, the network was made for."""
        if self._batch == 1:
            return None
        separator = copy.copy(self)
        separator._batch = 1
        return ReducedSeparator("batch_1", separator)

    def separate(self, mixture: Path, write: Write, on_progress: OnProgress) -> None:
        """See ``Separator``."""
        with open_mixture(mixture) as song, open_mixture(mixture) as whole:
            grid = TrimmedSegmentation(song.frames, self._segment, self._overlap, self._trim)
            blocks = separate_segmentwise(
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
