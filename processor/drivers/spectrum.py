"""Segments to spectra and back, as MDX networks know them, on the device that they are on.

What audio-separator's ``STFT`` gives (a periodic Hann window, frames centred), to the bit on a CPU, without the copies
that its ``istft`` makes: the network's output is laid out once for the inverse transform, and the sum of the squared
windows, which is the same for every segment, is added up once.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: The lowest bins, up to 32 Hz, are kept from every MDX network.
MUTED_BINS = 3


class Spectrum:
    """The transform of one model. Tensors are float32."""

    def __init__(self, n_fft: int, hop: int, bins: int, device: torch.device) -> None:
        """``n_fft``, ``hop``: frames. ``bins``: how many of the lowest ones the network sees."""
        self._n_fft, self._hop, self._bins = n_fft, hop, bins
        self._window = torch.hann_window(n_fft, periodic=True).to(device)
        #: A frame in hops, the last of which it may not fill.
        self._hops = -(-n_fft // hop)
        self._complex = torch.empty(0)
        self._frames = torch.empty(0)
        self._envelope = torch.empty(0)

    def forward(self, waves: Tensor) -> Tensor:
        """``(batch, channels, frames)`` to ``(batch, channels * 2, bins, times)``, real and imaginary by turns."""
        batch, channels, frames = waves.shape
        rows = waves.reshape(-1, frames)
        spectra = torch.stft(rows, self._n_fft, self._hop, window=self._window, center=True, return_complex=True)
        parts = torch.view_as_real(spectra[:, : self._bins]).permute(0, 3, 1, 2).contiguous()
        parts[:, :, :MUTED_BINS] = 0.0
        return parts.view(batch, channels * 2, -1, parts.shape[-1])

    def inverse(self, spectra: Tensor) -> Tensor:
        """``(batch, channels * 2, bins, times)`` to ``(batch, channels, frames)``; bins that lack are zero."""
        batch, parts, bins, times = spectra.shape
        rows = batch * parts // 2
        self._make_room(rows, times)
        spectrum = self._complex[:rows]
        torch.view_as_real(spectrum)[:, :, :bins] = spectra.reshape(rows, 2, bins, times).permute(0, 3, 2, 1)
        frames = self._frames[:rows]
        torch.mul(torch.fft.irfft(spectrum, n=self._n_fft), self._window, out=frames[..., : self._n_fft])
        return (self._added(frames) / self._envelope).view(batch, parts // 2, -1)

    def _added(self, frames: Tensor) -> Tensor:
        """Frames ``(rows, times, hops * hop)``, the next a hop later than the last, added up in their order."""
        rows, times, _ = frames.shape
        pieces = frames.view(rows, times, self._hops, self._hop)
        total = frames.new_zeros(rows, times + self._hops - 1, self._hop)
        for piece in reversed(range(self._hops)):
            total[:, piece : piece + times] += pieces[:, :, piece]
        start = self._n_fft // 2
        return total.view(rows, -1)[:, start : start + self._hop * (times - 1)]

    def _make_room(self, rows: int, times: int) -> None:
        """Have buffers for as much; what is beyond a network's bins and a frame's end in them stays zero."""
        if len(self._complex) >= rows and self._frames.shape[1] == times:
            return
        new = self._window.new_zeros
        self._complex = torch.view_as_complex(new(rows, times, self._n_fft // 2 + 1, 2))
        self._frames = new(rows, times, self._hops * self._hop)
        squares = new(1, times, self._hops * self._hop)
        squares[..., : self._n_fft] = self._window.square()
        self._envelope = self._added(squares)
