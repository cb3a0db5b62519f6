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

from processor.drivers.blockwise import Array, Blockwise, Together
from processor.drivers.resampling import Resampler, resampler
from processor.wav import SAMPLE_RATE

#: How the library brings a model's rate back to the song's: what librosa does unless it is told otherwise.
_BACK = "soxr_hq"


@dataclass(frozen=True, slots=True)
class Layout:
    """The bands of one model, from the lowest to the highest."""

    parameters: Any
    """The model's ``ModelParameters``."""
    v51: bool
    """Whether it is a model of UVR 5.1, which has other filters and its channels mixed otherwise."""
    kind: str | None = None
    """Which resampler splits the song, instead of those that the parameters name."""

    @property
    def bands(self) -> list[int]:
        """Their numbers."""
        return sorted(self.parameters.param["band"])

    @property
    def rate(self) -> int:
        """Of the highest band, and of what comes back, Hz."""
        return int(self.band(self.bands[-1])["sr"])

    @property
    def reversed(self) -> bool:
        """Whether the model hears the song from its end to its beginning."""
        return bool(self.parameters.param["reverse"]) and not self.v51

    def band(self, number: int) -> dict[str, Any]:
        """Its parameters: ``sr`` (Hz), ``hl`` and ``n_fft`` (samples), where it is cropped and filtered (bins)."""
        parameters: dict[str, Any] = self.parameters.param["band"][number]
        return parameters

    def frames(self, samples: int) -> int:
        """Of the spectra of a song with so many ``samples`` at 44.1 kHz."""
        counts = []
        rate = SAMPLE_RATE
        for number in reversed(self.bands):
            band = self.band(number)
            samples = math.ceil(samples * (band["sr"] / rate))
            rate = band["sr"]
            counts.append(1 + samples // band["hl"])
        return min(counts)


class Analysis:
    """One song's spectra."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._splits: dict[int, Resampler] = {}
        self._transforms: dict[int, Blockwise] = {}
        self._bands = Together()
        rate = SAMPLE_RATE
        for number in reversed(layout.bands):
            band = layout.band(number)
            self._splits[number] = resampler(rate, band["sr"], layout.kind or band["res_type"])
            self._transforms[number] = _transform(layout, number)
            rate = band["sr"]

    def push(self, wave: Array, *, last: bool = False) -> Array:
        """The next spectra, complex64, all bands in one, of the next float32 samples at 44.1 kHz."""
        spectra = {}
        for number, split in self._splits.items():
            wave = split.push(wave, last=last)
            spectra[number] = self._transforms[number].push(wave, last=last)
        pieces = dict(zip(spectra, self._bands.push(list(spectra.values())), strict=True))
        combined: Array = spec_utils.combine_spectrograms(pieces, self._layout.parameters, self._layout.v51)
        return combined


class Synthesis:
    """One song's wave from its spectra, whose frames are ``hop * (frames - 1)`` samples of the highest band."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._inverses = {number: _inverse(layout, number) for number in layout.bands}
        self._sums = {number: Together() for number in layout.bands}
        self._raises: dict[int, Resampler] = {}
        for number, higher in zip(layout.bands, layout.bands[1:], strict=False):
            rates = layout.band(number)["sr"], layout.band(higher)["sr"]
            self._raises[number] = resampler(*rates, spec_utils.wav_resolution)
        self._raises[layout.bands[-1]] = resampler(layout.rate, SAMPLE_RATE, _BACK)

    def push(self, spectra: Array, *, last: bool = False) -> Array:
        """The next samples at 44.1 kHz, float64, of the next spectra."""
        wave: Array | None = None
        offset = 0
        for number in self._layout.bands:
            height = _height(self._layout.band(number))
            own = self._inverses[number].push(spectra[:, offset : offset + height], last=last)
            offset += height
            wave = own if wave is None else np.add(*self._sums[number].push((wave, own)))
            wave = self._raises[number].push(wave, last=last)
        assert wave is not None
        return wave


def _height(band: dict[str, Any]) -> int:
    """The bins that are of a band in the spectra of all."""
    return int(band["crop_stop"] - band["crop_start"])


def _reach(band: dict[str, Any]) -> int:
    """How many hops away from its centre a frame ends."""
    return math.ceil(band["n_fft"] / 2 / band["hl"])


def _transform(layout: Layout, number: int) -> Blockwise:
    band = layout.band(number)

    def spectra(wave: Array) -> Array:
        transformed: Array = spec_utils.wave_to_spectrogram(
            wave, band["hl"], band["n_fft"], layout.parameters, number, layout.v51
        )
        return transformed

    return Blockwise(spectra, (band["hl"], 1), _reach(band))


def _inverse(layout: Layout, number: int) -> Blockwise:
    band = layout.band(number)

    def wave(cropped: Array) -> Array:
        channels, _, frames = cropped.shape
        spectra = np.zeros((channels, band["n_fft"] // 2 + 1, frames), np.complex128)
        spectra[:, band["crop_start"] : band["crop_stop"]] = cropped
        spectra = _filtered(layout, number, spectra)
        inverted: Array = spec_utils.spectrogram_to_wave(spectra, band["hl"], layout.parameters, number, layout.v51)
        return inverted

    return Blockwise(wave, (1, band["hl"]), _reach(band))


def _filtered(layout: Layout, number: int, spectra: Array) -> Array:
    """Without what the bands above and below have; ``spectra`` are changed."""
    band, bins = layout.band(number), spectra.shape[1]
    if band.get("hpf_start", 0) > 0:
        edge = band["hpf_start"], band["hpf_stop"] - 1
        if layout.v51:
            spectra *= spec_utils.get_hp_filter_mask(bins, *edge)
        else:
            spectra = spec_utils.fft_hp_filter(spectra, *edge)
    if "lpf_start" in band:
        edge = band["lpf_start"], band["lpf_stop"]
        if layout.v51:
            spectra *= spec_utils.get_lp_filter_mask(bins, *edge)
        else:
            spectra = spec_utils.fft_lp_filter(spectra, *edge)
    return spectra
