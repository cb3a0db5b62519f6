"""MDXC models over a song, in memory that does not depend on its length: MDX23C (TFC-TDF networks) and Roformers.

audio-separator's own way, with its parameters: the same segments, windows and sums, shorter segments for songs of less
than ten seconds, and the other stem of a model that has one target is the mixture less the target. What is different:

* a stem whose peak is above that of the mixture is not scaled down: stems are float, and sum to the mixture;
* a Roformer's transform leaves out the end of a song that is shorter than a segment and no whole number of hops long,
  and fails below half a transform: such a song gets zeros behind;
* where the distance of an MDX23C model's segments does not divide their length, see ``PaddedSegmentation``;
* the other stem of a target among three instruments or more is not named as one of these.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from processor.audio.wav import SAMPLE_RATE
from processor.separation.dsp.mixture import CHANNELS, open_mixture
from processor.separation.dsp.segmentation import AnchoredSegmentation, PaddedSegmentation, Segmentation
from processor.separation.options import DeviceOptions
from processor.separation.runtime.compile import compile_network
from processor.separation.runtime.device_transfer import DeviceTransfer, transfer_to
from processor.separation.runtime.network import batch_for, warm_up
from processor.separation.runtime.precision import keep_float32, noise, precision_context
from processor.separation.segmentwise import separate_segmentwise
from processor.separation.separator import OnProgress, ReducedSeparator, Write
from processor.separation.stems import normalise_stem_name

#: Shorter songs, s, are cut into segments of the library's size instead of the model's.
SHORT = 10.0
#: The length of a song that is cut as most are, frames.
WHOLE = 60 * SAMPLE_RATE


class MdxcSeparator:
    """A loaded ``MDXCSeparator``, driven: its network, its parameters, none of its loops."""

    def __init__(
        self,
        model: Any,
        options: DeviceOptions | None = None,
        *,
        batch: int | None = None,
        lane: DeviceTransfer | None = None,
    ) -> None:
        """``options``: how the network is run. ``batch``: segments that it is given at a time, ``lane``: both instead
        of the device's own."""
        self._model = model
        self._config = model.model_data_cfgdict
        training = self._config.training
        target = training.target_instrument
        self._outputs = tuple(map(normalise_stem_name, (target,) if target else training.instruments))
        self._rest = normalise_stem_name(_opposite(model, target, training.instruments)) if target else None
        segment = self.cut(WHOLE).segment
        self.network = MdxcNetwork(model, options or DeviceOptions(), segment, len(self._outputs), batch)
        self._lane = lane or transfer_to(self.network.place)

    @property
    def device(self) -> str:
        """See ``Separator``."""
        return self.network.place.type

    @property
    def stems(self) -> frozenset[str]:
        """See ``Separator``."""
        return frozenset((*self._outputs, self._rest) if self._rest else self._outputs)

    def only(self, wanted: Collection[str]) -> MdxcSeparator:
        """See ``Separator``. Itself: the network gives all its stems at once, and the rest takes next to no time."""
        return self

    def lighter(self) -> ReducedSeparator | None:
        """See ``Separator``. A segment at a time; how long that is, the network was made for."""
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
                self.cut(song.frames),
                self.network,
                self._lane,
                self.network.place,
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

    def cut(self, frames: int) -> Segmentation:
        """How a song of so many frames is cut. Raises ValueError if the model's parameters allow no cut."""
        model, config = self._model, self._config
        short = model.override_model_segment_size or frames < SHORT * SAMPLE_RATE
        times = model.segment_size if short else config.inference.dim_t
        own_hop = getattr(config.model, "stft_hop_length", None) if model.is_roformer else None
        hop = own_hop or config.audio.hop_length
        segment = int(hop) * (int(times) - 1)
        step = int(segment // model.overlap)
        if step <= 0:
            raise ValueError(f"segments of {segment} frames cannot overlap {model.overlap} times")
        return (AnchoredSegmentation if model.is_roformer else PaddedSegmentation)(frames, segment, step)


class MdxcNetwork:
    """The model's torch module: samples in, samples out, on the device it is on."""

    def __init__(self, model: Any, options: DeviceOptions, segment: int, stems: int, batch: int | None = None) -> None:
        """``segment``: how long segments of most songs are, frames. ``stems``: how many are wanted of the network.
        ``options``, ``batch``: see ``MdxcSeparator``."""
        self._module = model.model_run
        self._stems = stems
        self.place: torch.device = next(self._module.parameters()).device
        self.batch = batch or batch_for(self.place, options)
        self._hop, self._least = _transform(self._module) if model.is_roformer else (1, 1)

        def probe(size: int = 1) -> Tensor:
            return self._padded(noise(size, CHANNELS, segment, device=self.place))

        for part in _delicate(self._module):
            keep_float32(part, self.place)
        self._arithmetic = precision_context(options.precision, self.place, self._module, probe)
        compile_network(options.compile, _regions(self._module), lambda: self._run(probe(self.batch)))
        warm_up(self.place, self.batch, lambda size: self._run(probe(size)))

    def __call__(self, waves: Tensor) -> list[Tensor]:
        """``(batch, channels, frames)`` to a tensor ``(stems, channels, frames)`` for each segment, float32.

        Raises ValueError if the network gives fewer stems.
        """
        given = self._run(self._padded(waves))[..., : waves.shape[-1]]
        if any(len(output) < self._stems for output in given):
            raise ValueError(f"the network gives {len(given[0])} stems instead of {self._stems}")
        return [output[: self._stems] for output in given]

    def _padded(self, waves: Tensor) -> Tensor:
        """With silence behind, as much as the transform wants."""
        frames = waves.shape[-1]
        lacking = max(-frames % self._hop, self._least - frames)
        return pad(waves, (0, lacking)) if lacking else waves

    @torch.inference_mode()
    def _run(self, waves: Tensor) -> Tensor:
        """``(batch, channels, frames)`` to ``(batch, stems, channels, frames)``."""
        output = self._arithmetic(self._module, waves)
        return output.to(self.place).reshape(len(waves), -1, CHANNELS, output.shape[-1])


def _delicate(module: torch.nn.Module) -> list[torch.nn.Module]:
    """What of a Roformer costs little time and much precision: the layer before the first transformer, to whose output
    all the others add theirs, and the masks. With these in float32 and the rest in half precision, untrained networks
    of full size have 63 to 65 dB instead of 56 to 61."""
    parts: Any = module
    return [parts.band_split, *parts.mask_estimators] if hasattr(module, "band_split") else []


def _regions(module: torch.nn.Module) -> list[torch.nn.Module]:
    """What of a network is compiled: the layers that it repeats, which are most of it, without the transforms, whose
    complex numbers the compiler leaves out."""
    if hasattr(module, "band_split"):
        layers: Any = module.layers
        return [transformer for layer in layers for transformer in layer]
    return [block for name, block in module.named_modules() if name.endswith(("tfc_tdf", "bottleneck_block"))]


def _transform(roformer: Any) -> tuple[int, int]:
    """What a Roformer's transform wants: the frames of which it gives back whole multiples, and the fewest that it
    takes, a multiple as well."""
    n_fft, hop = roformer.stft_kwargs["n_fft"], roformer.stft_kwargs["hop_length"]
    if getattr(roformer, "match_input_audio_length", False):
        hop = 1
    fewest = n_fft // 2 + 1  # half a transform is mirrored at both ends
    return hop, fewest + -fewest % hop


def _opposite(model: Any, target: str, instruments: list[str]) -> str:
    """The library's name for the mixture less the target."""
    others = [name for name in instruments if normalise_stem_name(name) != normalise_stem_name(target)]
    return others[0] if len(others) == 1 else str(model.secondary_stem(target))
