"""VR networks over a song, in memory that does not depend on its length.

Follows audio-separator, with its parameters: the same bands, windows and masks. Both stems are the masked spectra of
the mixture. The song is read twice, because the network takes magnitudes relative to the largest one. The differences:

* the song is followed by silence: audio-separator leaves its end after the last whole hop out, and the hops before it
  lack the frames that overlap them (reported in its pull request 304);
* the window after the last one, where the song ends with a window, is left out, without an effect on the stems.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Collection, Generator, Iterator
from contextlib import closing
from fractions import Fraction
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
import soundfile
import torch
from audio_separator.separator.uvr_lib_v5 import spec_utils
from torch import Tensor

from pipeline.stem_name import stem_names
from processor.audio.wav import BLOCK_FRAMES, SAMPLE_RATE, Samples, write_wav
from processor.separation.architectures.fallback import UpstreamSeparator
from processor.separation.dsp.mixture import CHANNELS, open_mixture, require_finite
from processor.separation.dsp.multiband import BandLayout, MultibandAnalysis, MultibandSynthesis
from processor.separation.dsp.streaming import Array, sliding_windows
from processor.separation.options import DeviceOptions
from processor.separation.runtime.batching import UploadedBatch, upload_batches
from processor.separation.runtime.device_transfer import Download, transfer_for
from processor.separation.runtime.network import batch_for, warm_up
from processor.separation.runtime.precision import precision_context, probe_noise
from processor.separation.separator import BaseSeparator, OnProgress, ReducedSeparator, Write

#: The silence that follows the song, frames at 44.1 kHz: more than the longest half of a transform, a hop and the reach
#: of a resampler together, so that the song's last sample is as far inside as any other.
PADDING = 8192

#: The share of the progress that the search for the largest magnitude takes.
_SEARCH = 0.05

#: The shortest window that the authors of the models offer, frames, used where memory is short.
_SHORT_WINDOW = 320

#: File sizes of models, KiB, by which audio-separator decides which network the weights belong to: the one whose usual
#: file size is nearest.
_USUAL_SIZES = (31191, 33966, 56817, 123812, 123821, 129605, 218409, 537227, 537238)


def supports_streaming(model: Any) -> bool:
    """Return whether ``VrSeparator`` supports a loaded ``VRSeparator``.

    It does not support models that process the time-reversed song, and options that this service never sets: test-time
    augmentation, the search for artifacts in the whole mask, and mirroring above the highest band.
    """
    options = model.enable_tta or model.enable_post_process or model.high_end_process
    return not options and not model.model_params.param["reverse"]


class VrSeparator(BaseSeparator):
    """Separates with the network and the parameters of a loaded ``VRSeparator``, without its loops."""

    def __init__(self, model: Any, options: DeviceOptions | None = None) -> None:
        """Reads the weights: raises what torch raises about the file. ``options``: how the network is run."""
        options = options or DeviceOptions()
        file_size = math.ceil(Path(model.model_path).stat().st_size / 1024)
        model._ensure_model_loaded(min(_USUAL_SIZES, key=lambda usual: abs(usual - file_size)))
        self._network = model.model_run.eval()
        self._device: torch.device = model.torch_device
        self.device = self._device.type
        self._transfer = transfer_for(self._device)
        self.batch = batch_for(self._device, options)
        resampler = None if model.torch_device_mps is None else "polyphase"
        self._layout = BandLayout(model.model_params, v51=model.is_vr_51_model, resampler=resampler)
        self._window = model.window_size
        self._aggressiveness = model.aggressiveness
        self._wanted = stem_names((model.primary_stem_name, model.secondary_stem_name))
        self._primary = self._wanted[0]
        self.stems = frozenset(self._wanted)
        self._vocal_mask = model.primary_stem_name in model.NON_ACCOM_STEMS
        bins = self._network.output_bin

        def probe(size: int = 1) -> Tensor:
            return probe_noise(size, CHANNELS, bins, self._window, device=self._device).abs_()

        self._context = precision_context(options.precision, self._device, self._network.predict_mask, probe)
        warm_up(self._device, self.batch, lambda size: self._masks(probe(size)))

    def only(self, wanted: Collection[str]) -> Self:
        """See ``Separator``. Skips applying the other stem's mask and synthesising its bands."""
        separator = copy.copy(self)
        separator._wanted = tuple(name for name in self._wanted if name in wanted)
        separator.stems = frozenset(separator._wanted)
        return separator

    def reduce_memory(self) -> ReducedSeparator | None:
        """See ``Separator``. First one window at a time, then shorter windows."""
        separator = copy.copy(self)
        if self.batch > 1:
            separator.batch = 1
            return ReducedSeparator("batch_1", separator)
        if self._window > _SHORT_WINDOW:
            separator._window = _SHORT_WINDOW
            return ReducedSeparator(f"window_{_SHORT_WINDOW}", separator)
        return None

    def separate(self, mixture: Path, write: Write, on_progress: OnProgress) -> None:
        """See ``Separator``."""
        with open_mixture(mixture) as song, closing(self._separated(song, on_progress)) as separated:
            remaining = song.frames
            for waves in separated:
                fresh = min(remaining, waves[0].shape[-1])
                remaining -= fresh
                for name, wave in zip(self._wanted, waves, strict=True):
                    write(name, wave[:, :fresh].T.astype(np.float32))
            for start in range(0, remaining, BLOCK_FRAMES):  # of a silent song
                for name in self._wanted:
                    write(name, np.zeros((min(BLOCK_FRAMES, remaining - start), CHANNELS), np.float32))
        on_progress(1.0)

    def _separated(self, song: soundfile.SoundFile, on_progress: OnProgress) -> Generator[list[Array], None, None]:
        """Yield blocks ``(channels, samples)`` of the wanted stems, which exceed the song; none for silence."""
        frames = self._layout.frames(song.frames + PADDING)
        largest, done = np.float32(0.0), 0
        for spectra in self._spectra(song):
            on_progress(_SEARCH * done / frames)
            done += spectra.shape[-1]
            largest = max(largest, np.abs(spectra).max(initial=0.0))
        if not largest:
            return
        syntheses = [MultibandSynthesis(self._layout) for _ in self._wanted]
        done = 0
        with closing(self._predicted(song, largest)) as predicted:
            for spectra, masks in predicted:
                on_progress(_SEARCH + (1.0 - _SEARCH) * done / frames)
                done += spectra.shape[-1]
                parts = zip(syntheses, self._apply_masks(spectra, masks), strict=True)
                yield [synthesis.push(part, last=done == frames) for synthesis, part in parts]

    def _spectra(self, song: soundfile.SoundFile) -> Iterator[Array]:
        """Yield the spectra ``(channels, bins, frames)`` of the song and of the silence after it, complex64."""
        analysis = MultibandAnalysis(self._layout)
        song.seek(0)
        for block in song.blocks(BLOCK_FRAMES, dtype="float32", always_2d=True):
            require_finite(block)
            yield analysis.push(np.ascontiguousarray(block.T))
        yield analysis.push(np.zeros((CHANNELS, PADDING), np.float32), last=True)

    def _predicted(self, song: soundfile.SoundFile, largest: np.float32) -> Generator[tuple[Array, Array], None, None]:
        """Yield spectra, and masks ``(windows, channels, bins, frames)`` for these or for a few frames more."""
        middles: deque[Array] = deque()

        def magnitudes() -> Iterator[Array]:
            for window, middle in sliding_windows(self._spectra(song), self._window, self._network.offset):
                middles.append(middle)
                yield np.abs(window) / largest

        def predict(uploaded: UploadedBatch) -> tuple[int, Download]:
            count, on_device = uploaded
            with torch.inference_mode():
                return count, self._transfer.download(self._masks(on_device()))

        uploads = upload_batches(magnitudes(), self.batch, self._transfer)
        with closing(self._transfer.map(predict, uploads)) as results:
            for count, download in results:
                spectra = np.concatenate([middles.popleft() for _ in range(count)], axis=-1)
                yield spectra, download()[:count]

    @torch.inference_mode()
    def _masks(self, magnitudes: Tensor) -> Tensor:
        return self._context(self._network.predict_mask, magnitudes)

    def _apply_masks(self, spectra: Array, masks: Array) -> list[Array]:
        """Return the spectra of the wanted stems."""
        mask = np.concatenate(list(masks), axis=-1)[..., : spectra.shape[-1]]
        mask = spec_utils.adjust_aggr(mask, self._vocal_mask, self._aggressiveness)
        magnitude, phase = np.abs(spectra), np.exp(1.0j * np.angle(spectra))
        stem_masks = (mask if name == self._primary else 1 - mask for name in self._wanted)
        return [np.nan_to_num(part * magnitude * phase, posinf=0, neginf=0) for part in stem_masks]


class WholeSongVrSeparator(UpstreamSeparator):
    """Runs audio-separator's own loops over the song with silence before and after it.

    The silence makes the song a whole number of hops long. Otherwise a model of the time-reversed song loses the song's
    beginning, and its stems are early by as much.
    """

    def separate(self, mixture: Path, write: Write, on_progress: OnProgress) -> None:
        """See ``Separator``. Stores the padded song in a temporary folder next to the mixture."""
        bands = self._model.model_params.param["band"].values()
        hop = math.lcm(*(Fraction(band["hl"] * SAMPLE_RATE, band["sr"]).numerator for band in bands))
        before = PADDING + -PADDING % hop
        with open_mixture(mixture) as song, TemporaryDirectory(prefix="padded-", dir=mixture.parent) as folder:
            frames = song.frames
            silence = np.zeros((before + -frames % hop, CHANNELS), np.float32)
            padded = Path(folder) / mixture.name
            blocks = song.blocks(BLOCK_FRAMES, dtype="float32", always_2d=True)
            write_wav(padded, chain([silence[:before]], blocks, [silence]), CHANNELS)
            positions: dict[str, int] = {}

            def write_song(name: str, block: Samples) -> None:
                start = positions.get(name, -before)
                positions[name] = start + len(block)
                if len(part := block[max(0, -start) : max(0, frames - start)]):
                    write(name, part)

            super().separate(padded, write_song, on_progress)
