"""VR networks over a song, in memory that does not depend on its length.

audio-separator's own way, with its parameters: the same bands, windows and masks, and both stems are the mixture's
spectra, masked. The song is read twice, because the network is given magnitudes in relation to the largest one. What is
left out makes no difference to the stems: the window behind the last one where the song ends with a window.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Collection, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from audio_separator.separator.uvr_lib_v5 import spec_utils
from torch import Tensor

from processor.audio.wav import BLOCK_FRAMES
from processor.separation.dsp.mixture import CHANNELS, open_mixture, require_finite
from processor.separation.dsp.multiband import BandLayout, MultibandAnalysis, MultibandSynthesis
from processor.separation.dsp.streaming import Array, windows
from processor.separation.options import DeviceOptions
from processor.separation.runtime.batching import Sent, batches
from processor.separation.runtime.device_transfer import Fetched, transfer_to
from processor.separation.runtime.network import batch_for, warm_up
from processor.separation.runtime.precision import noise, precision_context
from processor.separation.separator import OnProgress, ReducedSeparator, Write
from processor.separation.stems import normalise_stem_name

#: What of the progress is the search for the largest magnitude.
_SEARCH = 0.05

#: The shortest window that the authors of the models offer, frames, where memory is short.
_SHORT_WINDOW = 320

#: By the size of a model's file, KiB, audio-separator tells which of its networks the weights belong to: the one whose
#: usual file is nearest in size.
_USUAL_SIZES = (31191, 33966, 56817, 123812, 123821, 129605, 218409, 537227, 537238)


def streams(model: Any) -> bool:
    """Whether a loaded ``VRSeparator`` can be driven here.

    Not if it hears the song backwards, and not with options that nobody sets here: test-time augmentation, the search
    of the whole mask for artifacts, and the mirroring of what is above the highest band.
    """
    options = model.enable_tta or model.enable_post_process or model.high_end_process
    return not options and not model.model_params.param["reverse"]


class VrSeparator:
    """A loaded ``VRSeparator``, driven: its network, its parameters, none of its loops."""

    def __init__(self, model: Any, options: DeviceOptions | None = None) -> None:
        """Reads the weights: raises what torch raises about the file. ``options``: how the network is run."""
        options = options or DeviceOptions()
        model._ensure_model_loaded(_usual_size(Path(model.model_path)))
        self._network = model.model_run.eval()
        self._device: torch.device = model.torch_device
        self._lane = transfer_to(self._device)
        self.batch = batch_for(self._device, options)
        kind = None if model.torch_device_mps is None else "polyphase"
        self._layout = BandLayout(model.model_params, v51=model.is_vr_51_model, kind=kind)
        self._window = model.window_size
        self._aggressiveness = model.aggressiveness
        self._primary = normalise_stem_name(model.primary_stem_name)
        self._wanted: tuple[str, ...] = (self._primary, normalise_stem_name(model.secondary_stem_name))
        self._voice = model.primary_stem_name in model.NON_ACCOM_STEMS
        bins = self._network.output_bin

        def probe(size: int = 1) -> Tensor:
            return noise(size, CHANNELS, bins, self._window, device=self._device).abs_()

        self._arithmetic = precision_context(options.precision, self._device, self._network.predict_mask, probe)
        warm_up(self._device, self.batch, lambda size: self._masks(probe(size)))

    @property
    def device(self) -> str:
        """See ``Separator``."""
        return self._device.type

    @property
    def stems(self) -> frozenset[str]:
        """See ``Separator``."""
        return frozenset(self._wanted)

    def only(self, wanted: Collection[str]) -> VrSeparator:
        """See ``Separator``. The other stem's mask is not applied, nor are its bands put together."""
        separator = copy.copy(self)
        separator._wanted = tuple(name for name in self._wanted if name in wanted)
        return separator

    def lighter(self) -> ReducedSeparator | None:
        """See ``Separator``. A window at a time; then windows that are shorter than usual."""
        separator = copy.copy(self)
        if self.batch > 1:
            separator.batch = 1
            return ReducedSeparator("batch_1", separator)
        if self._window > _SHORT_WINDOW:
            separator._window = _SHORT_WINDOW
            return ReducedSeparator(f"window_{_SHORT_WINDOW}", separator)
        return None

    def separate(self, mixture: Path, write: Write, on_progress: OnProgress) -> None:
        """See ``Separator``. What is behind the last whole hop of a song is silence, as stock has it."""
        with open_mixture(mixture) as song, closing(self._separated(song, on_progress)) as separated:
            left = song.frames
            for waves in separated:
                fresh = min(left, waves[0].shape[-1])
                left -= fresh
                for name, wave in zip(self._wanted, waves, strict=True):
                    write(name, wave[:, :fresh].T.astype(np.float32))
            for start in range(0, left, BLOCK_FRAMES):
                for name in self._wanted:
                    write(name, np.zeros((min(BLOCK_FRAMES, left - start), CHANNELS), np.float32))
        on_progress(1.0)

    def _separated(self, song: soundfile.SoundFile, on_progress: OnProgress) -> Generator[list[Array], None, None]:
        """The wanted stems' blocks ``(channels, samples)``: of silence none, nor of what is shorter than a hop."""
        frames = self._layout.frames(song.frames)
        loudest = self._loudest(song, frames, on_progress)
        if not loudest or frames < 2:
            return
        syntheses = [MultibandSynthesis(self._layout) for _ in self._wanted]
        done = 0
        with closing(self._predicted(song, loudest)) as predicted:
            for spectra, masks in predicted:
                on_progress(_SEARCH + (1.0 - _SEARCH) * done / frames)
                done += spectra.shape[-1]
                parts = zip(syntheses, self._split(spectra, masks), strict=True)
                yield [synthesis.push(part, last=done == frames) for synthesis, part in parts]

    def _loudest(self, song: soundfile.SoundFile, frames: int, on_progress: OnProgress) -> np.float32:
        """The largest magnitude in the song's spectra."""
        loudest, done = np.float32(0.0), 0
        for spectra in self._spectra(song):
            on_progress(_SEARCH * done / frames)
            done += spectra.shape[-1]
            loudest = max(loudest, np.abs(spectra).max(initial=0.0))
        return loudest

    def _spectra(self, song: soundfile.SoundFile) -> Iterator[Array]:
        """The song's spectra ``(channels, bins, frames)``, complex64."""
        analysis = MultibandAnalysis(self._layout)
        song.seek(0)
        for start in range(0, song.frames, BLOCK_FRAMES):
            size = min(BLOCK_FRAMES, song.frames - start)
            block = song.read(size, dtype="float32", fill_value=0.0)
            require_finite(block)
            yield analysis.push(np.ascontiguousarray(block.T), last=start + size == song.frames)

    def _predicted(self, song: soundfile.SoundFile, loudest: np.float32) -> Generator[tuple[Array, Array], None, None]:
        """Spectra, and masks ``(windows, channels, bins, frames)`` for these or for a few frames more."""
        kept: deque[Array] = deque()

        def magnitudes() -> Iterator[Array]:
            for window, middle in windows(self._spectra(song), self._window, self._network.offset):
                kept.append(middle)
                yield np.abs(window) / loudest

        sent = batches(magnitudes(), self.batch, self._lane)
        with closing(self._lane.map(self._predict, sent)) as results:
            for count, fetched in results:
                spectra = np.concatenate([kept.popleft() for _ in range(count)], axis=-1)
                yield spectra, fetched()[:count]

    @torch.inference_mode()
    def _predict(self, batch: Sent) -> tuple[int, Fetched]:
        count, arrived = batch
        return count, self._lane.fetch(self._masks(arrived()))

    @torch.inference_mode()
    def _masks(self, magnitudes: Tensor) -> Tensor:
        return self._arithmetic(self._network.predict_mask, magnitudes)

    def _split(self, spectra: Array, masks: Array) -> list[Array]:
        """The wanted stems' spectra."""
        mask = np.concatenate(list(masks), axis=-1)[..., : spectra.shape[-1]]
        mask = spec_utils.adjust_aggr(mask, self._voice, self._aggressiveness)
        magnitude, turn = np.abs(spectra), np.exp(1.0j * np.angle(spectra))
        wanted = (mask if name == self._primary else 1 - mask for name in self._wanted)
        return [np.nan_to_num(part * magnitude * turn, posinf=0, neginf=0) for part in wanted]


def _usual_size(path: Path) -> int:
    """The size by which the library knows the network of the weights in ``path``, KiB."""
    size = math.ceil(path.stat().st_size / 1024)
    return min(_USUAL_SIZES, key=lambda usual: abs(usual - size))
