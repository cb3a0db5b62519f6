"""The multiband spectra of VR models: bands of the song at different sample rates, stacked into one spectrum.

Streams the song through audio-separator's functions. Waves are ``(channels, samples)``, spectra ``(channels, bins,
frames)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from audio_separator.separator.uvr_lib_v5 import spec_utils

from processor.audio.wav import SAMPLE_RATE
from processor.separation.dsp.resampling import LibrosaResampler
from processor.separation.dsp.streaming import Array, StreamAligner, StreamingTransform

#: The resampler from a model's highest rate to the song's: librosa's default, which audio-separator uses.
_TO_SONG_RATE = "soxr_hq"


@dataclass(frozen=True, slots=True)
class Band:
    """One band of a model."""

    number: int
    """The lowest band has number 1."""
    rate: int
    """Hz."""
    hop: int
    """Samples at that rate, as is ``n_fft``."""
    n_fft: int
    crop: slice
    """The bins of the transform that the network takes."""
    high_pass: tuple[int, int] | None
    """The bin below which the filter falls, and the bin where it reaches zero; None without a filter."""
    low_pass: tuple[int, int] | None
    """The bin above which the filter falls, and the bin where it reaches zero; None without a filter."""
    resampler: str
    """The resampler that produces this rate."""

    @property
    def reach(self) -> int:
        """The distance from a frame's centre to its end, in hops, rounded up."""
        return math.ceil(self.n_fft / 2 / self.hop)


class BandLayout:
    """The bands of one model."""

    def __init__(self, parameters: Any, *, v51: bool, resampler: str | None = None) -> None:
        """``parameters``: the model's ``ModelParameters``. ``v51``: whether it is a model of UVR 5.1, which has other
        filters and channels. ``resampler``: for all bands, instead of those that the parameters name."""
        self.parameters = parameters
        self.v51 = v51
        bands = []
        for number, band in sorted(parameters.param["band"].items()):
            crop = slice(band["crop_start"], band["crop_stop"])
            high_pass = (band["hpf_start"], band["hpf_stop"] - 1) if band.get("hpf_start", 0) > 0 else None
            low_pass = (band["lpf_start"], band["lpf_stop"]) if "lpf_start" in band else None
            kind = resampler or band["res_type"]
            bands.append(Band(number, band["sr"], band["hl"], band["n_fft"], crop, high_pass, low_pass, kind))
        #: From the lowest to the highest.
        self.bands = tuple(bands)

    def frames(self, samples: int) -> int:
        """Return how many frames the spectra of a song have, given its number of ``samples`` at 44.1 kHz."""
        counts = []
        rate = SAMPLE_RATE
        for band in reversed(self.bands):
            samples = math.ceil(samples * (band.rate / rate))
            rate = band.rate
            counts.append(1 + samples // band.hop)
        return min(counts)


class MultibandAnalysis:
    """Transforms one song to spectra."""

    def __init__(self, layout: BandLayout) -> None:
        self._layout = layout
        self._resamplers: dict[int, LibrosaResampler] = {}
        self._transforms: dict[int, StreamingTransform] = {}
        self._aligner = StreamAligner()
        rate = SAMPLE_RATE
        for band in reversed(layout.bands):
            self._resamplers[band.number] = LibrosaResampler(rate, band.rate, band.resampler)
            transform = partial(
                spec_utils.wave_to_spectrogram,
                hop_length=band.hop,
                n_fft=band.n_fft,
                mp=layout.parameters,
                band=band.number,
                is_v51_model=layout.v51,
            )
            self._transforms[band.number] = StreamingTransform(transform, (band.hop, 1), band.reach)
            rate = band.rate

    def push(self, wave: Array, *, last: bool = False) -> Array:
        """Return the next spectra, complex64, all bands stacked, for the next float32 samples at 44.1 kHz."""
        spectra = {}
        for number, resampler in self._resamplers.items():
            wave = resampler.push(wave, last=last)
            spectra[number] = self._transforms[number].push(wave, last=last)
        aligned = dict(zip(spectra, self._aligner.push(list(spectra.values())), strict=True))
        combined: Array = spec_utils.combine_spectrograms(aligned, self._layout.parameters, self._layout.v51)
        return combined


class MultibandSynthesis:
    """Transforms spectra back to one song: ``hop * (frames - 1)`` samples of the highest band."""

    def __init__(self, layout: BandLayout) -> None:
        self._steps = []
        higher_rates = [*(band.rate for band in layout.bands[1:]), SAMPLE_RATE]
        for band, rate in zip(layout.bands, higher_rates, strict=True):
            kind = _TO_SONG_RATE if band == layout.bands[-1] else spec_utils.wav_resolution
            inverse = StreamingTransform(partial(_inverse, layout, band), (1, band.hop), band.reach)
            bins = band.crop.stop - band.crop.start
            self._steps.append((bins, inverse, StreamAligner(), LibrosaResampler(band.rate, rate, kind)))

    def push(self, spectra: Array, *, last: bool = False) -> Array:
        """Return the next samples at 44.1 kHz, float64, for the next spectra."""
        wave: Array | None = None
        offset = 0
        for bins, inverse, aligner, resampler in self._steps:
            own = inverse.push(spectra[:, offset : offset + bins], last=last)
            offset += bins
            wave = resampler.push(own if wave is None else np.add(*aligner.push((wave, own))), last=last)
        assert wave is not None
        return wave


def _inverse(layout: BandLayout, band: Band, cropped: Array) -> Array:
    """Return the wave of one band from its part of the spectra, without what the neighbouring bands contain."""
    channels, _, frames = cropped.shape
    bins = band.n_fft // 2 + 1
    spectra = np.zeros((channels, bins, frames), np.complex128)
    spectra[:, band.crop] = cropped
    if band.high_pass:
        if layout.v51:
            spectra *= spec_utils.get_hp_filter_mask(bins, *band.high_pass)
        else:
            spectra = spec_utils.fft_hp_filter(spectra, *band.high_pass)
    if band.low_pass:
        if layout.v51:
            spectra *= spec_utils.get_lp_filter_mask(bins, *band.low_pass)
        else:
            spectra = spec_utils.fft_lp_filter(spectra, *band.low_pass)
    wave: Array = spec_utils.spectrogram_to_wave(spectra, band.hop, layout.parameters, band.number, layout.v51)
    return wave
