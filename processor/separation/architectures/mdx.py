"""MDX networks over a song, in memory that does not depend on its length.

Follows audio-separator, with its parameters: the same segments, transforms, windows and sums. The second stem is the
mixture minus the first stem times the model's ``compensate``. Two steps are left out, without an effect on the stems:
the second pass over the song, whose result audio-separator discards, and segments that contain only padding.
"""

from __future__ import annotations

import copy
from contextlib import closing
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.stem_name import stem_names
from processor.separation.dsp.mixture import CHANNELS, open_mixture
from processor.separation.dsp.segmentation import trimmed_segmentation
from processor.separation.dsp.stft import Stft
from processor.separation.options import DeviceOptions
from processor.separation.runtime.device_transfer import DeviceTransfer, transfer_for
from processor.separation.runtime.network import Network, load_network, transform_device
from processor.separation.runtime.precision import probe_noise
from processor.separation.segmentwise import separate_segmentwise
from processor.separation.separator import BaseSeparator, OnProgress, ReducedSeparator, Write


class MdxSeparator(BaseSeparator):
    """Separates with the network and the parameters of a loaded ``MDXSeparator``, without its loops.

    The second stem is computed from the first one, so ``only`` has nothing to leave out.
    """

    def __init__(
        self, model: Any, options: DeviceOptions | None = None, *, transfer: DeviceTransfer | None = None
    ) -> None:
        """``options``: how the network is run. ``transfer``: None: the device's own."""
        self._device = transform_device(model)
        self._transfer = transfer or transfer_for(self._device)
        self._stft = Stft(model.n_fft, model.hop_length, model.dim_f, self._device)
        self._trim = model.n_fft // 2
        self._segment = model.hop_length * (model.segment_size - 1)
        self.network: Network = load_network(
            model,
            options or DeviceOptions(),
            lambda batch: self._stft.forward(probe_noise(batch, CHANNELS, self._segment, device=self._device)),
        )
        self.device = self.network.device
        self._batch = self.network.batch
        self._overlap = model.overlap
        self._compensate = model.compensate
        self._denoise = model.enable_denoise
        self._primary, self._secondary = stem_names((model.primary_stem_name, model.secondary_stem_name))
        self.stems = frozenset((self._primary, self._secondary))

    def reduce_memory(self) -> ReducedSeparator | None:
        """See ``Separator``. One segment at a time; the network has a fixed segment length."""
        if self._batch == 1:
            return None
        separator = copy.copy(self)
        separator._batch = 1
        return ReducedSeparator("batch_1", separator)

    def separate(self, mixture: Path, write: Write, on_progress: OnProgress) -> None:
        """See ``Separator``."""
        with open_mixture(mixture) as song, open_mixture(mixture) as whole:
            segmentation = trimmed_segmentation(song.frames, self._segment, self._overlap, self._trim)
            blocks = separate_segmentwise(
                song, segmentation, self._primary_stem, self._transfer, self._device, on_progress, batch=self._batch
            )
            with closing(blocks):
                for block in blocks:
                    primary = block.T
                    original = whole.read(len(primary), dtype="float32")
                    write(self._secondary, (-primary * self._compensate) + original)
                    write(self._primary, primary)

    def _primary_stem(self, waves: Tensor) -> Tensor:
        """Return the primary stem of segments ``(batch, channels, frames)``."""
        spectra = self._stft.forward(waves)
        if self._denoise:
            # What the network adds by itself does not change its sign with the input's, and cancels out.
            predicted = self.network(-spectra) * -0.5 + self.network(spectra) * 0.5
        else:
            predicted = self.network(spectra)
        return self._stft.inverse(predicted)
