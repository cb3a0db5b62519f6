"""MDXC models over a song, in memory that does not depend on its length: MDX23C (TFC-TDF networks) and Roformers.

Follows audio-separator, with its parameters: the same segments, windows and sums, and shorter segments for songs of
less than ten seconds. The other stem of a model with one target is the mixture minus the target. The differences:

* a stem whose peak exceeds that of the mixture is not scaled down: stems are float, and add up to the mixture;
* a Roformer's transform omits the end of a song that is shorter than a segment and not a whole number of hops long, and
  fails below half a transform: such a song is padded with zeros;
* where the step of an MDX23C model does not divide its segment length, see ``padded_segmentation``;
* a Roformer that takes one channel separates the channels one after the other, where audio-separator fails;
* the other stem of a target among three or more instruments does not get the name of one of them.
"""

from __future__ import annotations

import copy
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from pipeline.errors import ErrorCode, PermanentError
from pipeline.stem_name import normalise_stem_name, stem_names
from processor.audio.wav import SAMPLE_RATE
from processor.separation.dsp.mixture import CHANNELS, open_mixture
from processor.separation.dsp.segmentation import Segmentation, anchored_segmentation, padded_segmentation
from processor.separation.options import DeviceOptions
from processor.separation.runtime.compile import compile_network
from processor.separation.runtime.device_transfer import DeviceTransfer, transfer_for
from processor.separation.runtime.network import batch_for, warm_up
from processor.separation.runtime.precision import force_float32, precision_context, probe_noise
from processor.separation.segmentwise import separate_segmentwise
from processor.separation.separator import BaseSeparator, OnProgress, ReducedSeparator, Write

#: Songs shorter than this, s, are divided into segments of audio-separator's length instead of the model's.
SHORT_SONG = 10.0
#: A length above that limit, frames.
LONG_SONG = 60 * SAMPLE_RATE


class MdxcSeparator(BaseSeparator):
    """Separates with the network and the parameters of a loaded ``MDXCSeparator``, without its loops.

    The network returns all its stems at once, so ``only`` would save next to no time.
    """

    def __init__(
        self,
        model: Any,
        options: DeviceOptions | None = None,
        *,
        batch: int | None = None,
        transfer: DeviceTransfer | None = None,
    ) -> None:
        """``options``: how the network is run. ``batch``: segments in a batch. ``transfer``: to the device. The
        defaults of both depend on the device."""
        self._model = model
        self._config = model.model_data_cfgdict
        if not model.is_roformer and self._config.audio.num_channels != CHANNELS:
            raise PermanentError(
                "the model is not for stereo, and audio-separator's networks of its kind are for stereo only",
                code=ErrorCode.MODEL_INVALID,
            )
        target, instruments = self._config.training.target_instrument, self._config.training.instruments
        self._outputs = stem_names((target,) if target else instruments)
        self._rest: str | None = None
        if target:
            # audio-separator's name for the mixture minus the target.
            others = [name for name in instruments if normalise_stem_name(name) != normalise_stem_name(target)]
            rest = others[0] if len(others) == 1 else str(model.secondary_stem(target))
            self._rest = stem_names((target, rest))[1]
        self.stems = frozenset((*self._outputs, self._rest) if self._rest else self._outputs)
        segment = self.segmentation(LONG_SONG).segment
        self.network = MdxcNetwork(model, options or DeviceOptions(), segment, len(self._outputs), batch)
        self.device: str = self.network.device.type
        self._transfer = transfer or transfer_for(self.network.device)

    def reduce_memory(self) -> ReducedSeparator | None:
        """See ``Separator``. One segment at a time; the network has a fixed segment length."""
        if self.network.batch == 1:
            return None
        separator = copy.copy(self)
        separator.network = copy.copy(self.network)
        separator.network.batch = 1
        return ReducedSeparator("batch_1", separator)

    def separate(self, mixture: Path, write: Write, on_progress: OnProgress) -> None:
        """See ``Separator``."""
        with open_mixture(mixture) as song, open_mixture(mixture) as whole:
            blocks = separate_segmentwise(
                song,
                self.segmentation(song.frames),
                self.network,
                self._transfer,
                self.network.device,
                on_progress,
                batch=self.network.batch,
                stems=(len(self._outputs),),
            )
            with closing(blocks):
                for block in blocks:
                    if self._rest:
                        write(self._rest, whole.read(block.shape[-1], dtype="float32") - block[0].T)
                    for name, stem in zip(self._outputs, block, strict=True):
                        write(name, stem.T)

    def segmentation(self, frames: int) -> Segmentation:
        """Return the segmentation of a song of ``frames``. Raises ValueError if the model's parameters allow none."""
        model, config = self._model, self._config
        short = model.override_model_segment_size or frames < SHORT_SONG * SAMPLE_RATE
        times = model.segment_size if short else config.inference.dim_t
        own_hop = getattr(config.model, "stft_hop_length", None) if model.is_roformer else None
        hop = own_hop or config.audio.hop_length
        segment = int(hop) * (int(times) - 1)
        step = int(segment // model.overlap)
        if step <= 0:
            raise ValueError(f"segments of {segment} frames cannot overlap {model.overlap} times")
        return (anchored_segmentation if model.is_roformer else padded_segmentation)(frames, segment, step)


class MdxcNetwork:
    """The model's torch module: samples in, samples out, on its device."""

    def __init__(self, model: Any, options: DeviceOptions, segment: int, stems: int, batch: int | None = None) -> None:
        """``segment``: length of segments of most songs, frames. ``stems``: how many the network must return.
        ``options``, ``batch``: see ``MdxcSeparator``."""
        self._module = model.model_run
        self._stems = stems
        #: Channels that the network takes at once: one of a mono network, which each channel passes by itself.
        self._channels = 1 if model.is_roformer and not self._module.stereo else CHANNELS
        self.device: torch.device = next(self._module.parameters()).device
        self.batch = batch or batch_for(self.device, options)
        # The input's length must be a multiple of ``_multiple`` frames, and at least ``_min_frames``.
        self._multiple = self._min_frames = 1
        if model.is_roformer:
            n_fft, hop = self._module.stft_kwargs["n_fft"], self._module.stft_kwargs["hop_length"]
            self._multiple = 1 if getattr(self._module, "match_input_audio_length", False) else hop
            reflected = n_fft // 2 + 1  # half a transform is reflected at both ends
            self._min_frames = reflected + -reflected % self._multiple

        def probe(size: int = 1) -> Tensor:
            return self._padded(probe_noise(size, CHANNELS, segment, device=self.device))

        if hasattr(self._module, "band_split"):
            # These parts of a Roformer cost little time and much precision: the layer before the first transformer, to
            # whose output all the others add theirs, and the masks. With these in float32 and the rest in half
            # precision, untrained networks of full size have 63 to 65 dB instead of 56 to 61.
            for part in (self._module.band_split, *self._module.mask_estimators):
                force_float32(part, self.device)
        self._context = precision_context(options.precision, self.device, self._module, probe)
        compile_network(options.compile, _repeated_layers(self._module), lambda: self._run(probe(self.batch)))
        warm_up(self.device, self.batch, lambda size: self._run(probe(size)))

    def __call__(self, waves: Tensor) -> list[Tensor]:
        """Return a tensor ``(stems, channels, frames)``, float32, for each segment of ``(batch, channels, frames)``.

        Raises ValueError if the network returns too few stems.
        """
        outputs = self._run(self._padded(waves))[..., : waves.shape[-1]]
        if any(len(output) < self._stems for output in outputs):
            raise ValueError(f"the network returns {len(outputs[0])} stems instead of {self._stems}")
        return [output[: self._stems] for output in outputs]

    def _padded(self, waves: Tensor) -> Tensor:
        """Append the silence that the transform needs."""
        frames = waves.shape[-1]
        missing = max(-frames % self._multiple, self._min_frames - frames)
        return pad(waves, (0, missing)) if missing else waves

    @torch.inference_mode()
    def _run(self, waves: Tensor) -> Tensor:
        """Return ``(batch, stems, channels, frames)`` for ``(batch, channels, frames)``."""
        batch, channels, frames = waves.shape
        output = self._context(self._module, waves.reshape(-1, self._channels, frames)).to(self.device)
        passes = channels // self._channels
        stems = output.reshape(batch, passes, -1, self._channels, output.shape[-1])
        return stems.transpose(1, 2).reshape(batch, -1, channels, output.shape[-1])


def _repeated_layers(module: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the parts of a network to compile: the layers that it repeats, which are most of it.

    The transforms are left out, because the compiler does not support their complex numbers.
    """
    if hasattr(module, "band_split"):
        layers: Any = module.layers
        return [transformer for layer in layers for transformer in layer]
    return [block for name, block in module.named_modules() if name.endswith(("tfc_tdf", "bottleneck_block"))]
