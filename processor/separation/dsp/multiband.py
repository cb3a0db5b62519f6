"""The spectra of VR models: some bands of the song, each at a rate of its own, side by side; and the way back.

audio-separator's functions, given the song piece by piece. Waves are ``(channels, samples)``, spectra ``(channels,
bins, frames)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from audio_separator.separator.uvr_lib_v5 import spec_utils

from processor.audio.wav import SAMPLE_RATE
from processor.separation.dsp.resampling import Resampler, resampler
from processor.separation.dsp.streaming import Array, StreamAligner, StreamingTransform

#: How the library brings a model's rate back to the song's: what librosa does unless it is told otherwise.
_BACK = "soxr_hq"


@dataclass(frozen=True, slots=True)
class Band:
    """One band of a model."""

    number: int
    """The lowest one's is 1."""
    rate: int
    """Hz."""
    hop: int
    """Samples at that rate, as ``n_fft``."""
    n_fft: int
    crop: slice
    """The bins of the transform that the network sees."""
    high_pass: tuple[int, int] | None
    """From which bin on, downwards, it falls, and where there is nothing left; None if it does not."""
    low_pass: tuple[int, int] | None
    """The same, upwards."""
    kind: str
    """The resampler that gives this rate."""

    @property
    def height(self) -> int:
        """Bins in the spectra of all bands."""
        return int(self.crop.stop - self.crop.start)

    @property
    def reach(self) -> int:
        """How many hops away from its centre a frame ends."""
        return math.ceil(self.n_fft / 2 / self.hop)


def _band(number: int, parameters: dict[str, Any], kind: str | None) -> Band:
    high_pass = (parameters["hpf_start"], parameters["hpf_stop"] - 1) if parameters.get("hpf_start", 0) > 0 else None
    low_pass = (parameters["lpf_start"], parameters["lpf_stop"]) if "lpf_start" in parameters else None
    crop = slice(parameters["crop_start"], parameters["crop_stop"])
    kind = kind or parameters["res_type"]
    return Band(number, parameters["sr"], parameters["hl"], parameters["n_fft"], crop, high_pass, low_pass, kind)


class BandLayout:
    """The bands of one model."""

    def __init__(self, parameters: Any, *, v51: bool, kind: str | None = None) -> None:
        """``parameters``: the model's ``ModelParameters``. ``v51``: whether it is a model of UVR 5.1, whose filters and
        channels are others. ``kind``: the resampler of all bands, instead of those that the parameters name."""
        self.parameters = parameters
        self.v51 = v51
        bands = sorted(parameters.param["band"].items())
        #: From the lowest to the highest.
        self.bands = tuple(_band(number, band, kind) for number, band in bands)

    def frames(self, samples: int) -> int:
        """Of the spectra of a song with so many ``samples`` at 44.1 kHz."""
        counts = []
        rate = SAMPLE_RATE
        for band in reversed(self.bands):
            samples = math.ceil(samples * (band.rate / rate))
            rate = band.rate
            counts.append(1 + samples // band.hop)
        return min(counts)


class MultibandAnalysis:
    """One song's spectra."""

    def __init__(self, layout: BandLayout) -> None:
        self._layout = layout
        self._splits: dict[int, Resampler] = {}
        self._transforms: dict[int, StreamingTransform] = {}
        self._together = StreamAligner()
        rate = SAMPLE_RATE
        for band in reversed(layout.bands):
            self._splits[band.number] = resampler(rate, band.rate, band.kind)
            self._transforms[band.number] = _transform(layout, band)
            rate = band.rate

    def push(self, wave: Array, *, last: bool = False) -> Array:
        """The next spectra, complex64, all bands in one, of the next float32 samples at 44.1 kHz."""
        spectra = {}
        for number, split in self._splits.items():
            wave = split.push(wave, last=last)
            spectra[number] = self._transforms[number].push(wave, last=last)
        common = dict(zip(spectra, self._together.push(list(spectra.values())), strict=True))
        combined: Array = spec_utils.combine_spectrograms(common, self._layout.parameters, self._layout.v51)
        return combined


class MultibandSynthesis:
    """One song's wave from its spectra, whose frames are ``hop * (frames - 1)`` samples of the highest band."""

    def __init__(self, layout: BandLayout) -> None:
        self._steps = []
        higher = [*(band.rate for band in layout.bands[1:]), SAMPLE_RATE]
        for band, rate in zip(layout.bands, higher, strict=True):
            kind = _BACK if band == layout.bands[-1] else spec_utils.wav_resolution
            self._steps.append((band.height, _inverse(layout, band), StreamAligner(), resampler(band.rate, rate, kind)))

    def push(self, spectra: Array, *, last: bool = False) -> Array:
        """The next samples at 44.1 kHz, float64, of the next spectra."""
        wave: Array | None = None
        offset = 0
        for height, inverse, together, upwards in self._steps:
            own = inverse.push(spectra[:, offset : offset + height], last=last)
            offset += height
            wave = upwards.push(own if wave is None else np.add(*together.push((wave, own))), last=last)
        assert wave is not None
        return wave


def _transform(layout: BandLayout, band: Band) -> StreamingTransform:
    def spectra(wave: Array) -> Array:
        transformed: Array = spec_utils.wave_to_spectrogram(
            wave, band.hop, band.n_fft, layout.parameters, band.number, layout.v51
        )
        return transformed

    return StreamingTransform(spectra, (band.hop, 1), band.reach)


def _inverse(layout: BandLayout, band: Band) -> StreamingTransform:
    def wave(cropped: Array) -> Array:
        channels, _, frames = cropped.shape
        spectra = np.zeros((channels, band.n_fft // 2 + 1, frames), np.complex128)
        spectra[:, band.crop] = cropped
        spectra = _filtered(spectra, band, v51=layout.v51)
        inverted: Array = spec_utils.spectrogram_to_wave(spectra, band.hop, layout.parameters, band.number, layout.v51)
        return inverted

    return StreamingTransform(wave, (1, band.hop), band.reach)


def _filtered(spectra: Array, band: Band, *, v51: bool) -> Array:
    """Without what the bands above and below have; ``spectra`` are changed."""
    bins = spectra.shape[1]
    if v51:
        if band.high_pass:
            spectra *= spec_utils.get_hp_filter_mask(bins, *band.high_pass)
        if band.low_pass:
            spectra *= spec_utils.get_lp_filter_mask(bins, *band.low_pass)
        return spectra
    if band.high_pass:
        spectra = spec_utils.fft_hp_filter(spectra, *band.high_pass)
    return spec_utils.fft_lp_filter(spectra, *band.low_pass) if band.low_pass else spectra
